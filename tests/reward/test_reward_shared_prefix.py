"""A prompt that is read once for all of its completions: the scores and gradients are those of each text alone."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from reward.passes import scores_of
from reward.shared_prefix import SharedRows, can_share, shared_rows, shared_scores

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}


def model_of(kind, config, num_outputs=2, **values):
    torch.manual_seed(0)
    return kind(config(**SIZES, num_labels=num_outputs, initializer_range=0.2, **values)).eval()


def llama(**values):
    return model_of(LlamaForSequenceClassification, LlamaConfig, num_key_value_heads=2, **values)


def qwen3():
    return model_of(Qwen3ForSequenceClassification, Qwen3Config, head_dim=8, num_key_value_heads=2)


def adapted():
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear", modules_to_save=["score"])
    model = get_peft_model(llama(), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def texts_and_groups(seed=1):
    generator = torch.Generator().manual_seed(seed)

    def tokens(number):
        return torch.randint(1, 64, (number,), generator=generator).tolist()

    texts, groups = [], []
    for group, (length, completions) in enumerate([(12, [3, 5, 1, 4]), (20, [6, 6]), (9, [2, 7, 3])]):
        prompt = tokens(length)
        texts += [prompt + tokens(number) for number in completions]
        groups += [group] * len(completions)
    return texts, groups


def alone(model, texts):
    return torch.cat([model(input_ids=torch.tensor([text])).logits for text in texts])


@pytest.mark.parametrize("make", [llama, qwen3, adapted])
def test_scores_and_gradients_are_those_of_each_text_alone(make):
    model = make()
    assert can_share(model)
    texts, groups = texts_and_groups()
    rows = shared_rows(texts, groups, 0)
    assert rows.ids.shape[0] == 3
    scores, expected = shared_scores(model, rows), alone(model, texts)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    weight = torch.randn(scores.shape, generator=torch.Generator().manual_seed(2))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    of_rows = torch.autograd.grad((scores * weight).sum(), parameters, allow_unused=True)
    of_each = torch.autograd.grad((expected * weight).sum(), parameters, allow_unused=True)
    for one, other in zip(of_rows, of_each, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_text_that_is_the_beginning_of_another_and_padding_at_the_end_are_read_as_they_are_alone():
    model = llama()
    texts = [[5, 6, 7, 8, 9], [5, 6, 7], [5, 6, 7, 8, 0], [5, 6, 7, 8, 9, 1]]
    rows = shared_rows(texts, [0] * 4, 0)
    torch.testing.assert_close(shared_scores(model, rows), alone(model, texts), atol=1e-5, rtol=0)
    assert shared_rows([[0, 0], [5, 6]], [0, 0], 0) is None


def test_texts_without_enough_in_common_are_read_one_by_one():
    assert shared_rows([[1, 2, 3, 4], [1, 5, 6, 7]], [0, 0], 0) is None
    assert shared_rows([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7]], [0, 1], 0) is None


def test_a_row_has_an_end_however_many_completions_there_are(monkeypatch):
    monkeypatch.setattr("reward.shared_prefix.MAX_ROW_TOKENS", 40)
    texts = [[*range(1, 21), 30 + number, 3] for number in range(25)]
    model = llama()
    rows = shared_rows(texts, [0] * 25, 0)
    assert rows.ids.shape == (3, 40)
    torch.testing.assert_close(shared_scores(model, rows), alone(model, texts), atol=1e-5, rtol=0)


def test_models_of_which_it_is_not_known_read_texts_one_by_one():
    assert not can_share(model_of(BertForSequenceClassification, BertConfig))
    assert not can_share(llama(attn_implementation="eager"))
    window = {"sliding_window": 8, "num_key_value_heads": 2}
    assert not can_share(model_of(MistralForSequenceClassification, MistralConfig, **window))
    noisy = llama()
    noisy.model.layers[0].register_forward_hook(lambda module, _, output: output + output.mean(1, keepdim=True))
    assert not can_share(noisy)


def test_rows_that_pass_as_a_mapping_are_the_same_rows():
    rows = shared_rows(*texts_and_groups(), 0)
    again = SharedRows(**vars(rows))
    model = llama()
    assert torch.equal(shared_scores(model, rows), shared_scores(model, again))


def test_it_is_what_padded_rows_give():
    model = llama()
    texts, groups = texts_and_groups(3)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], True, 0)
    padded = scores_of(model, ids, (ids != 0).long())
    torch.testing.assert_close(shared_scores(model, shared_rows(texts, groups, 0)), padded, atol=1e-5, rtol=0)
