"""Writes event files for TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path


class Board:
    """Writes curves from step `start` on, without SummaryWriter's thread, which hangs when the disk is full."""

    def __init__(self, folder: Path, start: int):
        from tensorboardX import event_file_writer, proto, summary  # slow: imports PyTorch if installed

        folder.mkdir(parents=True, exist_ok=True)
        self.event, self.scalar = proto.event_pb2.Event, summary.scalar
        self.file = event_file_writer.EventsWriter(str(folder / "events"))
        restart = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
        self.file.write_event(self.event(wall_time=time.time(), step=start, session_log=restart))
        self.close = self.file.close

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in values.items():
            self.file.write_event(self.event(wall_time=time.time(), step=step, summary=self.scalar(name, value)))
        self.file.flush()
