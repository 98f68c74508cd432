"""Deployment settings, and where the app runs.

Deployment settings: every field can be set by an environment variable ``MOTION_APP_<NAME>``.

Limits nest with two underscores: ``MOTION_APP_LIMITS__OBJECTS=4``.

Where the app runs: on somebody's own machine or on a hosted Space, and what follows from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from motion_app.acceleration import STOCK, Acceleration
from motion_app.errors import MotionAppError

PREFIX = "MOTION_APP_"  # of the environment's variables
# All of an acceleration that a deployment sets, by the name it is set by.
OPTIONS = tuple(entry.name for entry in fields(Acceleration) if entry.name != "compiler")
ROOT = Path(__file__).resolve().parent.parent
EVERY = "*"
# Of motions on the hub: owner/name, and a branch, tag or commit where another than main is meant.
MOTION_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
TRUE = ("1", "t", "true")
TOO_LONG_FOR_ZERO_GPU = (
    "learning a motion takes longer than the minutes of GPU that ZeroGPU lends to a visitor; run "
    "the app on your own machine, or train with the command line and import the file"
)


class Limits(BaseModel):
    """How much of anything a person may bring. Sizes are checked from headers, before decoding: a
    picture file of 20 KB can hold 500 MB of pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_megapixels: float = Field(default=40, gt=0)
    image_megabytes: float = Field(default=40, gt=0)
    clip_seconds: float = Field(default=20, gt=0)
    clip_width: int = Field(default=4096, gt=0, description="longer side in pixels; 4K")
    clip_height: int = Field(default=2304, gt=0, description="shorter side in pixels; 4K")
    clip_frames: int = Field(default=1200, gt=0)
    clip_megabytes: float = Field(default=200, gt=0)
    decode_seconds: float = Field(default=30, gt=0, description="for one file, in its own process")
    decode_megabytes: int = Field(default=1024, gt=0, description="of memory, beside the program's")
    decodes_megabytes: int = Field(
        default=2048, gt=0, description="of all pictures at work, and clips"
    )
    decodes_waiting: int = Field(default=32, gt=0, description="files that wait for their turn")
    reference_clips: int = Field(default=12, gt=0)
    motion_megabytes: float = Field(default=256, gt=0)
    motions_per_owner: int = Field(default=200, gt=0, description="of the library")
    motion_gigabytes_per_owner: float = Field(default=2, gt=0, description="of the library")
    motions_per_address: int = Field(default=800, gt=0, description="since the program began")
    motion_gigabytes_per_address: float = Field(default=8, gt=0, description="of the library")
    library_gigabytes: float = Field(
        default=50, gt=0, description="of all that browsers brought in or learned"
    )
    trash_per_owner: int = Field(default=50, gt=0, description="deleted motions, oldest go first")
    trash_per_address: int = Field(default=200, gt=0, description="oldest go first")
    trash_gigabytes: float = Field(default=2, gt=0, description="of deleted motions")
    objects: int = Field(default=8, gt=0)
    jobs_per_session: int = Field(default=3, gt=0)
    jobs_per_address: int = Field(default=12, gt=0)
    jobs: int = Field(default=32, gt=0)
    raters_per_address: int = Field(default=8, gt=0, description="in a day, by a study's open link")
    keep_hours: float = Field(default=72, gt=0, description="finished jobs and their files")
    draft_hours: float = Field(default=72, gt=0, description="scenes on the page, for a reload")
    keep_gigabytes: float = Field(default=5, gt=0, description="of finished jobs, oldest go first")
    study_megabytes: float = Field(default=1024, gt=0, description="of a study's files, unpacked")
    upload_gigabytes: float = Field(default=2, gt=0, description="of uploads, oldest go first")
    call_megabytes: float = Field(default=128, gt=0, description="of one JSON call to the API")
    call_values: int = Field(default=1_000_000, gt=0, description="in one JSON call")
    calls_megabytes: float = Field(default=512, gt=0, description="of all calls that wait or run")
    waiting_per_session: int = Field(default=64, gt=0, description="calls that wait; a held button")
    waiting_per_address: int = Field(default=512, gt=0, description="calls that wait")
    sessions: int = Field(default=2000, gt=0, description="pages and programs that are known")
    session_megabytes: float = Field(default=256, gt=0, description="of one page's pictures, undo")
    sessions_gigabytes: float = Field(default=2, gt=0, description="in memory, of all pages")
    resting_gigabytes: float = Field(default=4, gt=0, description="on disk, of pages at rest")
    rest_minutes: float = Field(default=10, gt=0, description="without a call, before a page rests")


DEFAULT_LIMITS = Limits()


class AccelerationVariables(PydanticBaseSettingsSource):
    """The options of ``Acceleration`` from variables of their own."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """None has a variable under its own name here."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        there = {name.lower(): value for name, value in os.environ.items()}
        names = {name: PREFIX.lower() + name for name in OPTIONS}
        return {name: there[variable] for name, variable in names.items() if variable in there}


class Settings(BaseSettings):
    """Where things are and what is loaded.

    ``model`` is a folder or hub id of a diffusers CogVideoX image-to-video checkpoint; ``device``
    None takes the GPU where there is one; ``acceleration`` says how the model is run, each option
    under its own name (``MOTION_APP_KERNEL``). ``motions`` are the folders searched for motions
    beside the model's own, and new ones go into the first; ``motion_repo`` is the repository of the
    hub, "owner/name", whose motions the library offers, "" none; ``segmenter`` is a SAM-2 folder or
    hub id, None the one the model names; ``finder`` a Grounding DINO or SAM 3 folder or hub id,
    which finds things by words, None for none; ``stock_models`` folders or hub ids of models of
    others, Wan and HunyuanVideo, that may be asked for a video. ``outputs`` holds the database of
    jobs and a folder for each; ``badge`` puts a visible "AI-generated" on every video, whatever its
    maker chose; ``training`` False turns learning motions off in the page; ``lent_seconds``: how
    long a training on ZeroGPU may hold the GPU, which is what visitors are lent;
    ``private_motions`` shows what a browser learns or imports to nobody else until its owner shares
    it. ``single_user`` False: the server is on this machine's own address and others come to it all
    the same, through a proxy; then nobody is taken for the machine's user, who may change motions
    that nobody in particular made.
    ``c2pa_certificate``, a chain, and ``c2pa_key``, both PEM files, sign every video; they need the
    extra ``c2pa``. ``study_database``: the PostgreSQL address of studies that are not kept in
    SQLite. ``root_path``, "/motion" or "https://lab.example/motion", is where browsers find the app
    behind a proxy; ``hosts`` are the names that it answers to beside this machine's own, "*" for
    all; ``frames`` the origins of other sites that may show the page in a frame and call it, "*"
    for all; both with commas between (docs/hosting.md). ``judges`` holds the weights of networks
    that score videos, where there are any.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, protected_namespaces=()
    )

    model: str = str(ROOT / "checkpoints" / "pocket")
    segmenter: str | None = None
    finder: str | None = None
    stock_models: tuple[str, ...] = ()
    device: str | None = None
    acceleration: Acceleration = STOCK
    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=0, le=65535)
    root_path: str = ""
    hosts: Annotated[tuple[str, ...], NoDecode] = ()
    frames: Annotated[tuple[str, ...], NoDecode] = ()
    motions: tuple[Path, ...] = (ROOT / "data" / "motions",)
    motion_repo: str = ""
    outputs: Path = ROOT / "outputs"
    cache: Path = ROOT / "gradio_cache"
    judges: Path = ROOT / "data" / "judges"
    badge: bool = False
    c2pa_certificate: Path | None = None
    c2pa_key: Path | None = None
    training: bool = True
    lent_seconds: float = Field(default=120, gt=0)
    private_motions: bool = False
    single_user: bool = True
    study_database: SecretStr | None = None
    limits: Limits = DEFAULT_LIMITS

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """pydantic's own, and the acceleration's variables."""
        return (*sources.values(), AccelerationVariables(settings_cls))

    @model_validator(mode="before")
    @classmethod
    def _gather_acceleration(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Options of the acceleration that come by their own names into one."""
        own = {name: given[name] for name in OPTIONS if name in given}
        rest = {name: value for name, value in given.items() if name not in own}
        return {"acceleration": own, **rest} if own else rest

    @field_validator("hosts", "frames", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        """Names with commas between."""
        if isinstance(given, str):
            return tuple(name.strip().rstrip("/") for name in given.split(",") if name.strip())
        return given

    @field_validator("motion_repo")
    @classmethod
    def _check_repository(cls, given: str) -> str:
        if given and not MOTION_REPOSITORY.fullmatch(given):
            raise ValueError(f'"{given[:80]}" is no repository of the hub; expected owner/name')
        return given

    def motion_folders(self, model: str | None = None) -> tuple[Path, ...]:
        """The folders of the library: the model's own ``motions`` first, then ``motions``."""
        own = Path(model or self.model) / "motions"
        return (own, *self.motions) if own.is_dir() else self.motions


def load_settings(**given: object) -> Settings:
    """Settings from the environment, with ``given`` on top; MotionAppError names a bad variable."""
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        loc = [str(part).upper() for part in first["loc"]]
        if loc[0] == "ACCELERATION":  # whose options have variables of their own
            del loc[0], loc[1:]
        name = PREFIX + "__".join(loc)
        raise MotionAppError(f"the setting {name} is wrong: {first['msg']}") from error


@dataclass(frozen=True)
class Hosting:
    """``space``: the Space's owner/name, "" on a machine of one's own. ``zero_gpu``: its GPU is
    lent to single calls."""

    space: str = ""
    zero_gpu: bool = False

    @classmethod
    def detect(cls, environment: Mapping[str, str] = os.environ) -> Hosting:
        """From the variables that a Space sets."""
        space = environment.get("SPACE_ID", "")
        lent = environment.get("SPACES_ZERO_GPU", "").lower() in TRUE
        return cls(space, zero_gpu=bool(space) and lent)

    def settings(self, **given: object) -> Settings:
        """The environment's settings, with ``given`` on top. On a Space, where these are not set,
        the page is served to everybody, under any name and in frames of other sites, as a Space is,
        and learning is off, which would keep the device from all others; not so with ZeroGPU, where
        each visitor has a share of their own."""
        settings = load_settings(**given)
        if not self.space:
            return settings
        own: dict[str, Any] = {
            "host": "0.0.0.0",
            "training": self.zero_gpu,
            "hosts": (EVERY,),
            "frames": (EVERY,),
        }
        changes = {key: value for key, value in own.items() if key not in settings.model_fields_set}
        return settings.model_copy(update=changes)
