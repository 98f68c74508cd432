"""What a person may do wrong, as exceptions whose message says what came, what was expected and
what to do. Every message is one line and safe to show in a browser."""


class MotionAppError(Exception):
    """A mistake the user can repair. The command line prints it and exits with 2; the page shows
    it."""


class MediaError(MotionAppError):
    """An image, clip or mask that cannot be used."""


class RequestError(MotionAppError):
    """A request that is incomplete or contradicts itself."""


class MotionFileError(MotionAppError):
    """A motion file that is broken, or made for another base model."""


class CheckpointError(MotionAppError):
    """A base model that cannot be loaded or does not fit what was asked of it."""


class GenerationCancelled(MotionAppError):
    """The person asked to stop; nothing is wrong."""
