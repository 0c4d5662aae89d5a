"""Several processes: what torchrun says about them, and that a single one needs none of it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mnist_cnn import Error
from mnist_cnn.model import CNN
from mnist_cnn.system.distributed import Ranks, connect, find_ranks

KEYS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch):
    """Lets torchrun say something: the values of KEYS, "" for what it leaves out."""

    def say(*values: str) -> None:
        for key, value in zip(KEYS, values, strict=True):
            if value:
                monkeypatch.setenv(key, value)
            else:
                monkeypatch.delenv(key, raising=False)

    return say


@pytest.mark.parametrize(
    "values", [("", "", "", "", ""), ("0", "1", "0", "127.0.0.1", "29500"), ("", "1", "", "", "")]
)
def test_a_process_by_itself_is_the_first(torchrun, values: tuple[str, ...]) -> None:
    torchrun(*values)
    ranks = find_ranks()
    assert ranks == Ranks(rank=0, world_size=1, local_rank=0)
    assert ranks.first


def test_torchrun_says_which_process_this_is(torchrun) -> None:
    torchrun("3", "4", "1", "127.0.0.1", "29500")
    ranks = find_ranks()
    assert ranks == Ranks(rank=3, world_size=4, local_rank=1)
    assert not ranks.first


@pytest.mark.parametrize(
    "values",
    [
        ("0", "2", "0", "", ""),
        ("0", "2", "0", "127.0.0.1", ""),
        ("0", "2", "", "127.0.0.1", "29500"),
        ("", "2", "0", "127.0.0.1", "29500"),
        ("0", "", "0", "127.0.0.1", "29500"),
        ("x", "2", "0", "127.0.0.1", "29500"),
        ("-1", "2", "0", "127.0.0.1", "29500"),
        ("2", "2", "0", "127.0.0.1", "29500"),
        ("0", "1" * 30, "0", "127.0.0.1", "29500"),
    ],
)
def test_half_of_what_torchrun_says_is_refused(torchrun, values: tuple[str, ...]) -> None:
    torchrun(*values)
    with pytest.raises(Error, match="start several processes with torchrun"):
        find_ranks()


def test_a_single_process_connects_to_nothing() -> None:
    ranks, net, values = Ranks(), nn.Linear(2, 2), torch.tensor([1.0, 2.0])
    with connect(ranks, torch.device("cpu")):
        assert not torch.distributed.is_initialized()
        assert ranks.share_gradients(net) is net
        assert ranks.sum(values).tolist() == [1.0, 2.0]
        assert ranks.on_first(lambda: "done") == "done"
        with pytest.raises(Error, match="wrong"):
            ranks.on_first(fail)


def fail() -> None:
    raise Error("wrong")


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_several_processes_cannot_share_an_accelerator(device: str) -> None:
    shared = connect(Ranks(rank=0, world_size=2, local_rank=0), torch.device(device))
    with pytest.raises(Error, match="--device cuda for a GPU each"):
        shared.__enter__()


def test_processes_that_cannot_be_connected_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(backend: str) -> None:
        raise RuntimeError(f"no {backend} in this PyTorch\nand a trace of it")

    monkeypatch.setattr(dist, "init_process_group", refuse)
    connected = connect(Ranks(rank=0, world_size=2, local_rank=0), torch.device("cpu"))
    with pytest.raises(Error, match="check how they are started") as caught:
        connected.__enter__()
    assert "(no gloo in this PyTorch)" in str(caught.value)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A process group of this process alone, which passes for a group of two.

    Yields the further groups, as they are made.
    """
    groups: list[dist.ProcessGroup] = []
    real = dist.new_group

    def new_group(*arguments: Any, **options: Any) -> dist.ProcessGroup:
        groups.append(real(*arguments, **options))
        return groups[-1]

    monkeypatch.setattr(dist, "new_group", new_group)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield groups
    dist.destroy_process_group()


def test_the_others_wait_for_the_first_as_long_as_a_download_may_take(joined: Any) -> None:
    """In a group of their own: with NCCL, too, which would give them up after ten minutes."""
    assert Ranks(rank=0, world_size=2, local_rank=0).on_first(lambda: "downloaded") == "downloaded"
    (group,) = joined
    assert dist.get_backend(group) == "gloo"
    options = group._get_backend(torch.device("cpu")).options
    assert options._timeout == timedelta(days=1)


@pytest.mark.filterwarnings("error")
def test_gradients_are_shared_without_a_warning(joined: Any) -> None:
    """Neither of an option that PyTorch is to drop, nor of strides unlike the gradients'."""
    net = CNN().to(memory_format=torch.channels_last)
    shared = Ranks(rank=0, world_size=2, local_rank=0).share_gradients(net)
    shared(torch.rand(2, 1, 28, 28)).sum().backward()
    first, second = net.conv1.weight, net.conv2.weight
    assert first.stride() == (25, 25, 5, 1)  # as its gradients come on a GPU
    assert second.is_contiguous(memory_format=torch.channels_last)


def test_what_fails_on_the_first_is_told_there_and_ends_the_others_in_silence(
    joined: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Error, match="wrong"):
        Ranks(rank=0, world_size=2, local_rank=0).on_first(fail)

    def receive(outcome: list[object], group: dist.ProcessGroup) -> None:
        outcome[:] = [None, "wrong"]

    monkeypatch.setattr(dist, "broadcast_object_list", receive)
    with pytest.raises(SystemExit) as caught:
        Ranks(rank=1, world_size=2, local_rank=1).on_first(
            lambda: pytest.fail("only the first does it")
        )
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "")
