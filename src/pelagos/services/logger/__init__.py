"""The logger: lines of other programs, and log levels at run time."""

from pelagos.services.logger.messages import Levels, LevelSet, LogBatch, LogLevel, LogRecord, SetLevel
from pelagos.services.logger.service import LoggerService

__all__ = ["LevelSet", "Levels", "LogBatch", "LogLevel", "LogRecord", "LoggerService", "SetLevel"]
