"""The event files that a run writes for TensorBoard."""

import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog

from yolos_jax.tasks.sinks.tensorboard import Board


def events_in(folder):
    """The events of the only file in a folder; a record is a length, its checksum, the event, and its checksum."""
    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_points_are_written_immediately(tmp_path):
    board = Board(tmp_path / "run" / "tensorboard", 3)
    board.add(4, {"train/loss": 1.5, "val/AP": 0.25})
    first, restart, *points = events_in(tmp_path / "run" / "tensorboard")
    board.close()
    assert first.file_version == "brain.Event:2"
    assert (restart.step, restart.session_log.status) == (
        3,
        SessionLog.START,
    )
    values = [(point.step, point.summary.value[0].tag, point.summary.value[0].simple_value) for point in points]
    assert values == [(4, "train/loss", 1.5), (4, "val/AP", 0.25)]
    assert 0 <= points[-1].wall_time - first.wall_time < 60
