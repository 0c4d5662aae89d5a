"""The command summary: the layer table on stdout, with and without a trained network."""

from collections.abc import Callable
from pathlib import Path

import pytest


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


@pytest.mark.parametrize(
    ("options", "parameters", "multiply_adds"),
    [
        ((), "215,194", "1,244,160"),
        (("--recipe", "fast"), "215,194", "1,244,160"),
        (("--recipe", "best"), "582,026", "4,267,008"),
    ],
)
def test_a_recipes_network_needs_no_training(
    options: tuple[str, ...], parameters: str, multiply_adds: str, cli: Callable, tmp_path: Path
) -> None:
    outcome = cli("summary", *options)
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert cells(lines[0]) == ["layer", "kind", "output", "parameters", "multiply-adds"]
    assert cells(lines[-1]) == ["total", parameters, multiply_adds]
    assert list(tmp_path.iterdir()) == []


def test_each_layer_has_a_line_and_columns_line_up(cli: Callable) -> None:
    lines = cli("summary").out.splitlines()
    rows = {cells(line)[0]: cells(line)[1:] for line in lines}
    assert rows["conv1"] == ["Conv2d 5x5", "24 x 24 x 24", "624", "345,600"]
    assert rows["fc2"] == ["Linear", "10", "2,570", "2,560"]
    assert rows["image"] == ["1 x 28 x 28"]
    assert rows["flatten"] == ["800"]
    numbers = [line for line in lines if cells(line)[-1][0].isdigit() and "," in line]
    assert len({len(line) for line in numbers}) == 1  # flush right
    starts = [line.index(cells(line)[-3]) for line in lines if "conv" in line or "fc" in line]
    assert len(set(starts)) == 1
    assert max(map(len, lines)) < 80
    assert all(line == line.rstrip() for line in lines)


def test_a_checkpoints_own_network_is_shown(cli: Callable, sample_checkpoint: Path) -> None:
    outcome = cli("summary", "--ckpt", sample_checkpoint)
    assert outcome.status == 0
    assert outcome.out == cli("summary", "--recipe", "standard").out


def test_refusals(cli: Callable, tmp_path: Path) -> None:
    cli("summary", "--ckpt").assert_refused("checkpoints/best.pt", "train")
    cli("summary", "--ckpt", "x.pt").assert_refused("x.pt")
    (tmp_path / "x.pt").write_bytes(b"nothing of the kind")
    cli("summary", "--ckpt", "x.pt").assert_refused("x.pt")
    cli("summary", "--recipe", "worst").assert_refused("worst", "standard")
    cli("summary", "--recipe", "standard", "--ckpt", "x.pt").assert_refused("--recipe", "--ckpt")
    cli("summary", "--ckpt", "x.pt", "--recipe", "standard").assert_refused("--recipe", "--ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]
