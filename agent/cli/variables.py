"""The request's environment variables that the CLI reads: a flag overrides one, and one overrides a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from msgspec.structs import replace

from agent.cli.session import notice
from agent.errors import InputError
from agent.formats.images import check_registry, check_tag, with_source
from agent.formats.plan import Instance, Plan
from agent.model.stack import Image

F = TypeVar("F", bound=Callable[..., Any])

REGISTRY = "DOCKER_REGISTRY"
TAG = "DOCKER_IMAGE_TAG"
SSH_USER = "SSH_USER"
SSH_KEY_PATH = "SSH_KEY_PATH"


def image_options(command: F) -> F:
    """`--registry` and `--tag`."""
    for option in (
        click.option("--tag", metavar="TAG", help=f"The tag of main's and the workers' images.  [env: {TAG}]"),
        click.option(
            "--registry", metavar="HOST", help=f"The registry of main's and the workers' images.  [env: {REGISTRY}]"
        ),
    ):
        command = option(command)
    return command


def setting(flag: str | None, variable: str, otherwise: str | None = None) -> str | None:
    """The flag, else the environment's variable (an empty one counts as none), else what the file says."""
    return flag or os.environ.get(variable) or otherwise


def with_images(plan: Plan, registry: str | None, tag: str | None) -> Plan:
    """Main and workers with images from the registry and with the tag that flags or the environment name.

    `services` are other people's images (a database), and a digest pins exactly one image: both stay.
    """
    registry, tag = setting(registry, REGISTRY), setting(tag, TAG)
    if registry is not None:
        check_registry(registry, where=REGISTRY if os.environ.get(REGISTRY) == registry else "--registry")
    if tag is not None:
        check_tag(tag, where=TAG if os.environ.get(TAG) == tag else "--tag")
    told: set[str] = set()

    def changed(instance: Instance) -> Instance:
        ref = instance.docker_image
        if isinstance(ref, Image):
            ref = ref.ref if ref.digest is None else None
        made = with_source(ref, registry=registry, tag=tag) if ref is not None else None
        if ref is None or made is None or made == ref:
            return instance
        if ref not in told:
            told.add(ref)
            notice(f"{ref} becomes {made} (--registry, --tag, {REGISTRY}, {TAG})")
        return replace(instance, docker_image=made)

    workers = tuple(changed(worker) for worker in plan.workers)
    return replace(plan, main=changed(plan.main) if plan.main is not None else None, workers=workers)


def refuse_redacted(plan: Plan, redacted: str, *, where: str) -> None:
    """A plan that `agent plan` printed lacks the values. Raises InputError naming the first that is still missing."""
    named = [(f"{where}.services.{name}", instance) for name, instance in plan.services.items()]
    named += [(f"{where}.main", plan.main)] if plan.main is not None else []
    named += [(f"{where}.workers[{index}]", worker) for index, worker in enumerate(plan.workers)]
    for place, instance in named:
        for name, value in instance.environment.items():
            if value == redacted:
                what = f"{redacted} stands for a value that the cluster doesn't show"
                raise InputError(what, where=f"{place}.environment.{name}", fix="Write the value itself.")
