"""`agent load`."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from agent.cli.options import Options, current_options, global_options
from agent.cli.output import print_json, say
from agent.cli.session import with_client
from agent.client import Client
from agent.errors import DeploymentFailed, InputError, NotFound, TooLarge
from agent.instruction import MAX_IMAGE_BYTES, MAX_NAMED_HOSTS
from agent.model.api import ImageProgress
from agent.model.decode import convert
from agent.model.explain import shown
from agent.model.stack import Image
from agent.model.types import Digest, Label, is_label

_PART_BYTES = 1_048_576
_SHOWN_EVERY_PERCENT = 10  # where nobody watches a screen


@click.command()
@click.argument("image")
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="Only this host; may be given more than once.")
@global_options
def load(image: str, hosts: tuple[str, ...]) -> None:
    """Put IMAGE on the cluster's hosts without a registry: an image of this machine's Docker, or a `docker save` file.

    It goes to one agent, and from there to all hosts, or to those that you name. Exits 3 when a host couldn't load it.
    """
    options = current_options()
    for host in hosts:
        if not is_label(host):
            raise InputError(f"{shown(host)} is no host's name: 1 to 63 of a-z 0-9 -", where="--host")
    if len(set(hosts)) > MAX_NAMED_HOSTS:
        raise InputError(f"at most {MAX_NAMED_HOSTS}", where="--host", fix="Leave it out to load it on all hosts.")
    with tempfile.TemporaryDirectory(prefix="agent-load-") as directory:
        archive = _archive(image, Path(directory))
        digest = _digest(archive)

        async def use(client: Client) -> dict[str, ImageProgress]:
            return await _load(client, options, archive, digest, tuple(sorted(set(hosts))))

        last = with_client(options, use)
    failed = sorted(host for host, progress in last.items() if progress.step not in ("loaded", "skipped"))
    if options.json:
        print_json({"image": image, "digest": digest, "hosts": [last[host] for host in sorted(last)]})
    if failed:
        raise DeploymentFailed(f"{image} isn't on {', '.join(failed)}", fix="Run the command again for these hosts.")
    if not any(progress.step == "loaded" for progress in last.values()):
        raise DeploymentFailed("no host has an engine for images", fix="`agent status` shows the hosts' runtimes.")


def _archive(image: str, directory: Path) -> Path:
    """The file itself, or the output of `docker save` for the image. Raises InputError or NotFound."""
    if Path(image).is_file():
        return Path(image)
    reference = convert({"ref": image}, Image, "IMAGE").ref
    archive = directory / "image.tar"
    try:
        with archive.open("wb") as target:
            saved = subprocess.run(
                ["docker", "save", "--", reference],
                stdin=subprocess.DEVNULL,
                stdout=target,
                stderr=subprocess.PIPE,
                check=False,
            )
    except FileNotFoundError:
        raise NotFound(
            f"there is no file {image}, and no `docker` on this machine to save an image with", where="IMAGE"
        ) from None
    if saved.returncode:
        said = saved.stderr.decode("utf-8", "replace").strip().splitlines()
        what = f"there is no such file, and as an image: {said[-1][:300] if said else '`docker save` failed'}"
        raise NotFound(what, where=image, fix="`docker images` lists those of this machine.")
    return archive


def _digest(archive: Path) -> Digest:
    size = archive.stat().st_size
    if size > MAX_IMAGE_BYTES:
        raise TooLarge(f"{size} bytes; at most {MAX_IMAGE_BYTES} are taken", where=str(archive))
    found = hashlib.sha256()
    with archive.open("rb") as file:
        while data := file.read(_PART_BYTES):
            found.update(data)
    return found.hexdigest()


async def _load(
    client: Client, options: Options, archive: Path, digest: Digest, hosts: tuple[Label, ...]
) -> dict[str, ImageProgress]:
    """The last progress of each host."""
    size = (await asyncio.to_thread(archive.stat)).st_size
    last: dict[str, ImageProgress] = {}
    shown_at: dict[str, int] = {}

    def show(what: str, done: int) -> None:
        """At the first byte, then every so many percent."""
        percent = done * 100 // size if size else 100
        step = percent // _SHOWN_EVERY_PERCENT
        if not options.json and shown_at.get(what) != step:
            shown_at[what] = step
            print(f"{what}: {percent} % of {size // 1_000_000} MB", file=sys.stderr)

    async for progress in client.load_image(archive, digest, hosts, lambda done: show("sending", done)):
        before = last.get(progress.host)
        last[progress.host] = progress
        if progress.step == "fetching":
            show(progress.host, progress.done)
        elif not options.json and (before is None or before.step != progress.step):
            say(_line(progress))
    return last


def _line(progress: ImageProgress) -> str:
    match progress.step:
        case "loaded":
            return f"{progress.host}: has {', '.join(progress.images)}"
        case "skipped":
            return f"{progress.host}: runs no Docker"
        case "failed":
            return f"{progress.host}: {progress.what}" + (f" ({progress.fix})" if progress.fix else "")
        case _:
            return f"{progress.host}: {progress.step}"
