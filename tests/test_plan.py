from hypothesis import given
from hypothesis import strategies as st

from drtf.records.plan import ShardPlan, plan_shards


def test_the_plan_of_a_small_dataset():
    plans = plan_shards({"train": 10, "test": 3}, record_bytes=30, shard_bytes=100)
    assert plans == [
        ShardPlan("train", 0, 4, 0, 2),
        ShardPlan("train", 1, 4, 2, 5),
        ShardPlan("train", 2, 4, 5, 7),
        ShardPlan("train", 3, 4, 7, 10),
        ShardPlan("test", 0, 1, 0, 3),
    ]


def test_file_names_follow_tensorflows_convention():
    name = ShardPlan("val", 2, 8, 0, 1).file_name("eyepacs")
    assert name == "eyepacs-val.tfrecord-00002-of-00008"


def test_a_record_larger_than_a_shard_gets_its_own_shard():
    plans = plan_shards({"train": 3}, record_bytes=1000, shard_bytes=10)
    assert [plan.stop - plan.start for plan in plans] == [1, 1, 1]


@given(
    st.dictionaries(st.sampled_from(["train", "val", "test"]), st.integers(0, 500)),
    st.integers(1, 1000),
    st.integers(1, 20_000),
)
def test_shards_cover_each_split_evenly_and_stay_within_the_limit(
    counts, record_bytes, shard_bytes
):
    plans = plan_shards(counts, record_bytes=record_bytes, shard_bytes=shard_bytes)
    for split, count in counts.items():
        own = [plan for plan in plans if plan.split == split]
        covered = [i for plan in own for i in range(plan.start, plan.stop)]
        assert covered == list(range(count))
        sizes = [plan.stop - plan.start for plan in own]
        if sizes:
            assert max(sizes) - min(sizes) <= 1
            assert max(sizes) == 1 or max(sizes) * record_bytes <= shard_bytes
            assert {plan.num_shards for plan in own} == {len(own)}
