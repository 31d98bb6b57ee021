import pytest
import torch

from semivox.networks import make_network
from semivox.networks.memory_bank import Memories
from semivox.networks.sam2_architecture import ARCHITECTURES, MEMORY_WIDTH, library, remembering
from semivox.networks.sam2_memory import Memory, answer, rotations, sine_code
from semivox.networks.sam2_prompts import Prompts

WIDTH = ARCHITECTURES["miniature"].width
GRID = (2, 4)
RANDOM = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def prompter():
    torch.manual_seed(0)
    return make_network("sam2", 2, 1, 2, {"size": "miniature"}).new_prompter(2, score=True, memory=True).eval()


def test_positional_codes_are_the_librarys():
    from transformers.models.sam2_video import modeling_sam2_video as reference

    code = reference.Sam2VideoPositionEmbeddingSine(MEMORY_WIDTH // 2, normalize=True)
    expected = code(torch.Size([1, MEMORY_WIDTH, *GRID]), torch.device("cpu"), torch.float32)[0]
    assert torch.allclose(sine_code(GRID, MEMORY_WIDTH), expected, atol=1e-5)


def test_attention_is_the_librarys_at_the_size_that_that_is_made_for():
    """Which is square, of a size that its configuration names."""
    side = 4
    model = remembering("miniature")
    config = model.config
    config.memory_attention_rope_feat_sizes = [side, side]
    reference = library().Sam2VideoModel(config).memory_attention.eval()
    memory = Memory("miniature").eval()
    memory.attention.load_state_dict(reference.state_dict())
    coarse = torch.randn(2, WIDTH, side, side, generator=RANDOM)
    kept = torch.randn(2, 3, MEMORY_WIDTH, side, side, generator=RANDOM)
    found = memory.attend(coarse, kept)
    for image in range(2):
        places = sine_code((side, side), MEMORY_WIDTH).flatten(1).T.repeat(3, 1).unsqueeze(1)
        expected = reference(
            current_vision_features=coarse[image].flatten(1).T.unsqueeze(1),
            current_vision_position_embeddings=sine_code((side, side), WIDTH).flatten(1).T.unsqueeze(1),
            memory=kept[image].flatten(2).permute(0, 2, 1).reshape(-1, 1, MEMORY_WIDTH),
            memory_posision_embeddings=places,
        )
        assert torch.allclose(found[image].flatten(1).T, expected.reshape(side * side, WIDTH), atol=1e-5)


def test_rotations_tell_rows_from_columns():
    cosines, _ = rotations((2, 3), 8)
    assert cosines.shape == (1, 6, 8)
    x, y = cosines[0, :, :4], cosines[0, :, 4:]
    assert torch.equal(x[:3], x[3:]), "x is the same in both rows"
    assert torch.equal(y[0], y[2])
    assert not torch.equal(y[0], y[3])


def test_a_memory_is_of_the_foreground_that_was_found(prompter):
    coarse = torch.randn(1, WIDTH, *GRID, generator=RANDOM)
    foreground = torch.zeros(1, 30, 61)
    empty = prompter.memory.encode(coarse, foreground)
    foreground[:, :14, :14] = 1
    found = prompter.memory.encode(coarse, foreground)
    assert found.shape == (1, MEMORY_WIDTH, *GRID)
    assert (found - empty).abs().mean() > 0.1 * empty.abs().mean()
    assert not any(weight.requires_grad for weight in prompter.memory.encoder.parameters())


def questions():
    features = [torch.randn(2, c, *s, generator=RANDOM) for c, s in ((3, (30, 61)), (WIDTH, (8, 16)), (WIDTH, (4, 8)))]
    features.append(torch.randn(2, WIDTH, *GRID, generator=RANDOM).requires_grad_())
    valid = torch.tensor([[True, False], [False, False]])
    boxes = torch.tensor([3.0, 4.0, 20.0, 25.0]).expand(2, 2, 4)
    return features, Prompts(valid, boxes=boxes)


def some_memories(count: int) -> Memories:
    shapes = ((count, MEMORY_WIDTH, *GRID), (count, WIDTH, *GRID), (count,))
    return Memories(*(torch.randn(shape, generator=RANDOM) for shape in shapes))


def test_without_memories_the_answer_is_as_without_a_memory(prompter):
    features, prompts = questions()
    inside = torch.ones(2, 30, 61, dtype=torch.bool)
    masks, scores, found, present = answer(prompter, features, prompts, inside, some_memories(0), torch.zeros(2, 3))
    plain, plain_scores = prompter(features, prompts)
    assert torch.equal(masks, plain)
    assert torch.equal(scores, plain_scores)
    assert present.tolist() == [True, False]
    assert not any(part.requires_grad for part in vars(found).values())
    assert found.scores[0] == plain_scores[0, 0], "the mean over the prompts that there are"
    assert torch.equal(found.embeddings, prompter.without_memory(features[-1]))


def test_memories_change_the_answer_and_teach_attention_alone(prompter):
    features, prompts = questions()
    inside = torch.ones(2, 30, 61, dtype=torch.bool)
    memories, numbers = some_memories(5), torch.rand(2, 3, generator=RANDOM)
    masks, _, found, _ = answer(prompter, features, prompts, inside, memories, numbers)
    assert not torch.allclose(masks, prompter(features, prompts)[0])
    read = prompter.memory.attend(features[-1], memories.drawn(features[-1].detach(), numbers))
    assert torch.equal(found.embeddings, read.detach()), "stored after attention"
    masks[0, 0].sum().backward()
    grads = {name for name, p in prompter.memory.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert any(name.startswith("attention.layers.0.cross") for name in grads)
    assert all(name.startswith("attention.") for name in grads)
    assert features[-1].grad.abs().max() > 0
    prompter.zero_grad()


def test_what_is_outside_the_scan_is_not_remembered(prompter):
    features, prompts = questions()
    inside = torch.ones(2, 30, 61, dtype=torch.bool)
    none = some_memories(0)
    whole = answer(prompter, features, prompts, inside, none, torch.zeros(2, 3))[2]
    nothing = answer(prompter, features, prompts, ~inside, none, torch.zeros(2, 3))[2]
    empty = prompter.memory.encode(features[-1].detach(), torch.zeros(2, 30, 61))
    assert torch.equal(nothing.features, empty)
    assert not torch.equal(whole.features, empty)
