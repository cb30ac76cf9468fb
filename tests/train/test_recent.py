"""What was used last stays, within the budget."""

from train.recent import Recent


def test_what_was_used_longest_ago_is_forgotten():
    recent: Recent[str, int] = Recent(2)
    made = []

    def get(key):
        return recent.get(key, lambda: made.append(key) or len(made))

    assert [get(key) for key in ("a", "b", "a", "c", "a", "b")] == [1, 2, 1, 3, 1, 4]
    assert made == ["a", "b", "c", "b"]
    assert (len(recent), "a" in recent, "c" in recent, recent["b"]) == (2, True, False, 4)


def test_a_budget_in_the_units_of_the_cost():
    recent: Recent[str, bytes] = Recent(10, len)
    recent.keep("a", b"12345")
    recent.keep("b", b"12345")
    recent.keep("a", b"123")
    assert (recent.used, recent["a"]) == (8, b"123")
    recent.keep("c", b"123")
    assert ("a" in recent, "b" in recent, recent.used) == (True, False, 6)
    assert recent.get("d", lambda: b"12345678901") == b"12345678901", "too large to keep, and still given"
    assert (len(recent), recent.used) == (0, 0)


def test_nothing_is_kept_without_a_budget_and_after_clearing():
    none, some = Recent(0), Recent(3)
    none.keep("a", 1)
    some.keep("a", 1)
    some.clear()
    assert (len(none), len(some), some.used) == (0, 0, 0)
