"""State by task: buffers over pairs of tasks follow the order of the tasks in both dimensions."""

import torch

from equipoise.balance._state import TaskState


class Pairs(TaskState):
    def __init__(self, tasks: list[str] | None = None) -> None:
        super().__init__(tasks)
        self.add_pair_buffer("cosines", fill=0.5)
        self.add_pair_buffer("known", dtype=torch.bool)
        self.add_task_buffer("rows", 2)


def filled() -> Pairs:
    state = Pairs(["a", "b", "c"])
    state.cosines.copy_(torch.arange(9.0).reshape(3, 3))
    state.known[0, 2] = True
    state.rows.copy_(torch.arange(6.0).reshape(3, 2))
    return state


def test_a_pair_buffer_is_tasks_by_tasks() -> None:
    assert Pairs().cosines.shape == (0, 0)
    assert Pairs(["a", "b"]).cosines.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert Pairs(["a", "b"]).known.dtype == torch.bool
    late = Pairs()
    late.name_tasks(["a", "b", "c"])
    assert late.cosines.shape == (3, 3)


def test_both_dimensions_follow_the_task_order_on_load() -> None:
    state = filled()
    other = Pairs(["c", "a", "b"])
    other.load_state_dict(state.state_dict())
    for i, one in enumerate(other.tasks):
        assert other.rows[i].tolist() == state.rows[state.index(one)].tolist()
        for j, two in enumerate(other.tasks):
            assert other.cosines[i, j] == state.cosines[state.index(one), state.index(two)]
            assert other.known[i, j] == state.known[state.index(one), state.index(two)]


def test_a_state_without_names_gives_them_and_one_saved_early_is_as_good_as_new() -> None:
    nameless = Pairs()
    nameless.load_state_dict(filled().state_dict())
    assert nameless.tasks == ("a", "b", "c")
    assert nameless.cosines.tolist() == filled().cosines.tolist()
    named = filled()
    named.load_state_dict(Pairs().state_dict())
    assert named.cosines.tolist() == [[0.5] * 3] * 3


def test_pair_buffers_are_widened_with_the_losses() -> None:
    state = filled()
    state.fit(torch.device("cpu"), torch.float64)
    assert state.cosines.dtype == torch.float64
    assert state.known.dtype == torch.bool
