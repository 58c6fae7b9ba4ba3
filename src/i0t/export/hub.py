"""Puts an exported folder on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

# What it raises where there is no answer at all: that of the HTTP library it uses, which differs with its version.
_TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Makes the repository, if it is not there, and uploads the folder as one commit.

    Args:
        folder: What :func:`i0t.export.folder.export` wrote.
        repository: ``owner/name``.
        private: Whether a repository that is made here is private.

    Returns:
        The address of the repository.

    Raises:
        ValueError: If that is no name of a repository, or the hub refuses, or cannot be reached; the folder stays.
    """
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message="Weights and gap reducer")
    except (HFValidationError, _TRANSPORT_ERROR, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"--push-to-hub {repository}: {reason}; {folder} stays: once logged in (hf auth login), "
            f"hf upload {repository} {folder} sends it"
        ) from error
    return str(address)
