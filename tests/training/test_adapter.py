"""LoRA and QLoRA: only the adapter is learned, two workers learn what one process learns, and what is left
behind is the model with the adapter merged and the adapter by itself. One spawned group makes the
measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import PeftModel
from safetensors.torch import load_file
from test_loop import CONFIG, encoded, make_examples, student_batches
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from two_workers import group_of_two, spawn, whole

from cotray.config.adapter import AdapterConfig
from cotray.errors import ConfigError
from cotray.models.loading import load_model, load_tokenizer
from cotray.models.locations import model_path
from cotray.training.adapter import is_of_adapter
from cotray.training.checkpoint import TrainState, save
from cotray.training.four_bits import in_float32, is_in_four_bits, num_weights
from cotray.training.loop import train
from cotray.training.model_folder import export
from cotray.training.sharded_loading import load_for_training

ADAPTER = AdapterConfig(kind="lora", rank=2, alpha=8, targets="all-linear")
IN_FOUR_BITS = ADAPTER.model_copy(update={"kind": "qlora"})
CASES = {
    "llama": ("random:llama", ADAPTER),
    "t5": ("random:t5", ADAPTER),
    "llama in 4 bits": ("random:llama", IN_FOUR_BITS),
}
DATA = make_examples(7)
DEV = [example for example in make_examples(3, prefix="so ") if example.kind == "factual"]


def learn(
    case: str, folder: Path, *, restore_from: Path | None = None, with_dropout: bool = True
) -> TrainState:
    name, adapter = CASES[case]
    model = load_for_training(name, precision="float32", adapter=adapter, seed=5)
    if not with_dropout:
        model.train = lambda mode=True: model

    def keep(state: TrainState) -> None:
        target = folder / str(state.progress.step)
        target.mkdir(parents=True, exist_ok=True)
        save(state, target)

    return train(
        model,
        load_tokenizer(name),
        student_batches(name, DATA, CONFIG),
        encoded(name, DEV),
        CONFIG,
        alpha=0.5,
        seed=1,
        report=lambda metrics: None,
        save_checkpoint=keep,
        restore_from=restore_from,
    )


def adapter_of(state: TrainState) -> dict[str, torch.Tensor]:
    weights = {name: value for name, value in state.model.named_parameters() if is_of_adapter(name)}
    return {name: whole(value).detach().clone() for name, value in weights.items()}


def sizes(state: TrainState) -> dict[str, int]:
    """Numbers of all workers together: of weights, of gradients, and of what the optimizer keeps of each."""
    parameters = list(state.model.parameters())
    moments = [value for of_one in state.optimizer.state.values() for value in of_one.values() if value.ndim]
    counted = {
        "weights": parameters,
        "gradients": [parameter.grad for parameter in parameters if parameter.grad is not None],
        "moments": moments,
        "adapter": [value for name, value in state.model.named_parameters() if is_of_adapter(name)],
    }
    return {kind: sum(map(num_weights, tensors)) for kind, tensors in counted.items()}


def measure(rank: int, folder: Path) -> None:
    with group_of_two(rank, folder):
        results: dict[str, Any] = {}
        for case, (name, _) in CASES.items():
            straight = learn(case, folder / case)
            resumed = learn(case, folder / f"{case}-resumed", restore_from=folder / case / "2")
            results[case] = {"straight": adapter_of(straight), "resumed": adapter_of(resumed)}
            without = learn(case, folder / f"{case}-without", with_dropout=False)
            results[case] |= {"without": adapter_of(without), "sizes": sizes(without)}
            results[case]["dev_losses"] = [row["dev_loss"] for row in without.progress.history]
            export(without, load_tokenizer(name), folder / f"{case}-export")
            export(without, load_tokenizer(name), folder / f"{case}-in-parts", most_bytes=1)
        if rank == 0:
            torch.save(results, folder / "results.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("adapter")
    spawn(measure, path)
    return path


@pytest.fixture(scope="module")
def results(folder):
    return torch.load(folder / "results.pt", weights_only=False)


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_optimizer_are_of_the_adapter_alone(results, case):
    found = results[case]["sizes"]
    plain = load_model(CASES[case][0], dtype=torch.float32)
    head = plain.get_output_embeddings()
    linear = [m for m in plain.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    expected = sum(ADAPTER.rank * (layer.in_features + layer.out_features) for layer in linear)
    num_plain = sum(parameter.numel() for parameter in plain.parameters())
    assert found == {
        "weights": num_plain + expected,
        "gradients": expected,
        "moments": 2 * expected,
        "adapter": expected,
    }


@pytest.mark.parametrize("case", CASES)
def test_two_workers_resume_an_adapter_to_the_bit(results, case):
    straight, resumed = results[case]["straight"], results[case]["resumed"]
    assert straight and all(torch.equal(straight[key], resumed[key]) for key in straight)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_has_the_adapter_alone(folder, case):
    """Its weights, the best of them and two moments, in float32; frozen weights are in the model's files."""
    files = list((folder / case / "2").glob("*.distcp"))
    num_bytes = sum(path.stat().st_size for path in files)
    adapter = load_file(folder / f"{case}-export" / "adapter" / "adapter_model.safetensors")
    num_weights = sum(tensor.numel() for tensor in adapter.values())
    assert len(files) == 2
    assert 4 * 4 * num_weights < num_bytes
    tensors = dcp.FileSystemReader(folder / case / "2").read_metadata()
    assert not [key for key in tensors.state_dict_metadata if "base_layer" in key]


@pytest.mark.parametrize("case", CASES)
def test_one_process_learns_the_adapter_of_two_workers(results, tmp_path, case):
    alone = learn(case, tmp_path, with_dropout=False)
    dev_losses = [row["dev_loss"] for row in alone.progress.history]
    assert dev_losses == pytest.approx(results[case]["dev_losses"], rel=3e-3)
    expected = results[case]["without"]
    assert adapter_of(alone).keys() == expected.keys()
    for key, value in adapter_of(alone).items():
        assert (value - expected[key]).norm() < 3e-3 * expected[key].norm(), key


def logits_of(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 17, 40, 41, 42, 60, 61]])
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


def by_transformers(name: str) -> Any:
    """In 4 bits, as its documentation says for QLoRA."""
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    path = model_path(name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        path, quantization_config=nf4, dtype=torch.float32, device_map="cpu"
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # or it computes in bfloat16
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_the_folder_is_the_model_with_the_adapter_that_peft_loads_beside_it(folder, case):
    name, adapter = CASES[case]
    plain = by_transformers(name) if adapter is IN_FOUR_BITS else load_model(name, dtype=torch.float32)
    merged = load_model(str(folder / f"{case}-export"), dtype=torch.float32)
    before = logits_of(plain)
    adapted = PeftModel.from_pretrained(plain, str(folder / f"{case}-export" / "adapter"))
    found, expected = logits_of(merged), logits_of(adapted)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (expected - before).abs().max() > 1e-2 * before.abs().max()
    settings = json.loads((folder / f"{case}-export" / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (2, 8, name)


@pytest.mark.parametrize("case", CASES)
def test_a_model_written_in_parts_is_the_one_written_whole(folder, case):
    parts = sorted(path.name for path in (folder / f"{case}-in-parts").glob("*.safetensors"))
    assert len(parts) > 2 and parts[0] == f"model-00001-of-{len(parts):05}.safetensors"
    one = load_model(str(folder / f"{case}-export"), dtype=torch.float32).state_dict()
    other = load_model(str(folder / f"{case}-in-parts"), dtype=torch.float32).state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_adapter_begins_as_the_seed_says_and_changes_nothing_at_first():
    def begun(seed: int) -> Any:
        return load_for_training("random:llama", precision="float32", adapter=ADAPTER, seed=seed)

    one, again, other = begun(1).state_dict(), begun(1).state_dict(), begun(2).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert {key for key in one if not torch.equal(one[key], other[key])} == {k for k in one if "lora_A" in k}
    plain = load_model("random:llama", dtype=torch.float32)
    assert torch.equal(logits_of(begun(1)), logits_of(plain))


def test_layers_that_keep_their_weights_transposed_are_merged_as_peft_does(tmp_path):
    """GPT-2's."""
    model = load_for_training("random:gpt2", precision="float32", adapter=ADAPTER)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    export(TrainState(model, torch.optim.AdamW(model.parameters())), load_tokenizer("random:gpt2"), tmp_path)
    plain = load_model("random:gpt2", dtype=torch.float32)
    expected = logits_of(PeftModel.from_pretrained(plain, str(tmp_path / "adapter")))
    found = logits_of(load_model(str(tmp_path), dtype=torch.float32))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_targets_that_no_block_has_are_refused_with_those_that_it_has():
    adapter = AdapterConfig(kind="lora", targets=["q_proj", "query"])
    with pytest.raises(ConfigError, match=r"targets: query: .* LlamaForCausalLM, which are .*q_proj"):
        load_for_training("random:llama", precision="float32", adapter=adapter)


def test_only_the_targets_are_adapted():
    adapter = AdapterConfig(kind="lora", targets=["q_proj", "v_proj"])
    model = load_for_training("random:llama", precision="float32", adapter=adapter)
    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[4] for name in learned} == {"q_proj", "v_proj"}
    assert len(learned) == 3 * 2 * 2


def test_weights_in_four_bits_stay_what_bitsandbytes_makes_of_them():
    model = load_for_training("random:llama", precision="float32", adapter=IN_FOUR_BITS, num_layers=1)
    quantised = {name: value for name, value in model.named_parameters() if is_in_four_bits(value)}
    assert len(quantised) == 7 and all(value.dtype == torch.uint8 for value in quantised.values())
    plain = load_model("random:llama", dtype=torch.float32, num_layers=1).state_dict()
    for name, value in quantised.items():
        original = plain[name.replace(".base_layer", "")]
        packed, state = quantize_4bit(original, quant_type="nf4", compress_statistics=True)
        assert torch.equal(in_float32(value), dequantize_4bit(packed, state))
        assert 0 < (in_float32(value) - original).norm() < 0.12 * original.norm()


def test_a_model_without_linear_layers_to_quantise_is_refused(monkeypatch):
    monkeypatch.setattr("cotray.training.four_bits.is_in_four_bits", lambda tensor: False)
    with pytest.raises(ConfigError, match=r"adapter\.kind=qlora: bitsandbytes finds no linear layer"):
        load_for_training("random:llama", precision="float32", adapter=IN_FOUR_BITS)
