"""Tests how a process finds the others: from arguments, or from the launcher's environment variables."""

import pytest
from micro_run import micro_data
from process_pair import Pair, Program

from yolos_jax.distributed import launch
from yolos_jax.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"coordinator": "here:1"}, "must be used together"),
        ({"processes": 2, "process": 0}, "must be used together"),
        ({"coordinator": "here", "processes": 2, "process": 0}, "must be HOST:PORT"),
        ({"coordinator": "here:1", "processes": 2, "process": 2}, "must be between 0 and 1"),
    ],
)
def test_rejects_wrong_arguments(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        launch.join(**arguments)


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_GPUS_ON_NODE": "8"}, None),  # one process per GPU
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_GPUS_ON_NODE": "8"}, [*range(8)]),
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [*range(4)]),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, None),
    ],
)
def test_single_process_on_a_node_uses_all_devices(environment, devices):
    assert launch.devices_of_node(environment) == devices


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, ""),  # inside salloc, but not started by srun
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[1-4]", "SLURM_PROCID": "2"}, "Slurm"),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1", "SLURM_PROCID": "0"}, ""),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "Open MPI"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "the TPU runtime"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, ""),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, ""),  # needs mode="on"
    ],
)
def test_detects_launchers(environment, launcher):
    assert launch.detected(environment) == launcher


def test_open_mpi_5_requires_a_coordinator(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri", raising=False)
    with pytest.raises(InputError, match="add --coordinator=HOST:PORT"):
        launch.join()


@pytest.mark.slow
def test_both_processes_exit_with_the_error_code(tmp_path):
    changed = Program("train.py", micro_data(tmp_path / "data"), tmp_path / "run", {}, second=("--config.seed=1",))
    (tmp_path / "said").mkdir()
    with Pair(tmp_path / "said", changed) as pair:
        assert pair.ends() == [2, 2], pair.text(0) + pair.text(1)
