from benchmarks.methods import table


def test_what_cannot_run_is_told_from_what_was_not_run():
    both = {"time_ratio": 2.0, "memory_ratio": 1.5}
    figures = {name: {"U-Net": both | {"floor": 2.33}} for name in ("flat", "flat_too")}
    *_, first, second = table(figures, {"flat": {"U-Net": both}})
    assert first == f"| flat |{' – |' * 5} 2.00 | 2.33 | 1.50 | 2.00 | 1.50 |"
    assert second == f"| flat_too |{' – |' * 5} 2.00 | 2.33 | 1.50 | not run | not run |"
