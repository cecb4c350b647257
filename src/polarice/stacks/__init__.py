"""A user's stack as a network sees it, and which of its particles show one view."""

from .find import GUESSES, NeighbourResult, find_neighbours, search_stack
from .neighbour_file import NEIGHBOUR_FILE, GivenNeighbours, NeighbourTable, stack_digest
from .preflight import open_stack, require_fit, too_few_for, unreadable
from .prepared import PreparedStack, Progress, labelled, timed
from .record import resolved_configuration, run_identity, write_record
from .settings import NeighbourSettings, StackSettings
from .views import (
    ViewRecorder,
    clear_outputs,
    load_joint_model,
    look_at,
    require_room_for_views,
    scratch_folder,
    scratch_work,
)
from .work import Work

__all__ = [
    "GUESSES",
    "NEIGHBOUR_FILE",
    "GivenNeighbours",
    "NeighbourResult",
    "NeighbourSettings",
    "NeighbourTable",
    "PreparedStack",
    "Progress",
    "StackSettings",
    "ViewRecorder",
    "Work",
    "clear_outputs",
    "find_neighbours",
    "labelled",
    "load_joint_model",
    "look_at",
    "open_stack",
    "require_fit",
    "require_room_for_views",
    "resolved_configuration",
    "run_identity",
    "scratch_folder",
    "scratch_work",
    "search_stack",
    "stack_digest",
    "timed",
    "too_few_for",
    "unreadable",
    "write_record",
]
