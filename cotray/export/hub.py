"""A folder on its way to the Hugging Face hub, or to a server that speaks its protocol (HF_ENDPOINT)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cotray.errors import StageError

RepoType = Literal["dataset", "model"]


def push(folder: Path, repo: str, repo_type: RepoType, *, is_meant: bool) -> str:
    """Upload all files of a folder as one commit; without `is_meant` only say which.

    A repository that is not there is made, a private one. StageError where the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    api = HfApi()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    what = f"{len(files)} files, {size:,} bytes, to the {repo_type} repository {repo} at {api.endpoint}"
    if not is_meant:
        listed = [f"  {path.relative_to(folder)} ({path.stat().st_size:,} bytes)" for path in files]
        return "\n".join([f"would upload {what}:", *listed, "nothing was uploaded; --yes does it"])
    try:
        api.create_repo(repo, repo_type=repo_type, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, repo_type=repo_type, folder_path=folder, commit_message="Upload from cotray"
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StageError(
            f"{repo}: could not be uploaded to {api.endpoint} ({reason}). Look at the repository's name, and "
            "that the token (HF_TOKEN, or `hf auth login`) may write there"
        ) from error
    return f"uploaded {what}: {commit.commit_url}"
