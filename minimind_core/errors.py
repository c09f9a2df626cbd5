"""The one family of errors that a learner is meant to read.

Every message says what was given, what is allowed and what to do. Command lines print it and exit with 2;
notebooks show it without a page of stack (notebook.short_errors). Anything else that is raised is a bug.
"""


class CourseError(Exception):
    """Something the user can mend: a file, a flag, a value. The message says how."""


class ConfigError(CourseError, ValueError):
    """A configuration that cannot work."""


class CorpusError(CourseError, ValueError):
    """A corpus file or row that cannot be read; names the file and the line."""


class TokenizerError(CourseError, ValueError):
    """A tokenizer file that is missing, broken or does not fit the model."""


class CheckpointError(CourseError, RuntimeError):
    """Weights or training state that are missing, broken or belong to something else."""


class InputError(CourseError, ValueError):
    """A tensor handed to the model that it cannot work on: wrong type, shape or an id outside the vocabulary."""


class TrainingError(CourseError, RuntimeError):
    """A run that cannot start or had to stop; the last good state is kept."""


class StorageError(CourseError, OSError):
    """A file or folder that cannot be written: disk full, no permission, a folder in the way."""
