"""The character tokenizer of the tiny models, in the format of any Hugging Face tokenizer."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


PAD, UNKNOWN, USER, ASSISTANT, END = "<|pad|>", "<|unknown|>", "<|user|>", "<|assistant|>", "<|end|>"
# The opening of an answer is one token: the tiny models should spend their capacity on the problem, not on spelling.
BOXED = "\\boxed{"
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))

# A system message is left out of the text: a tiny model knows its tasks by their looks, and the instructions that a
# large model needs would be nine tenths of its input. They stay in the data, for the models that read them.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}<|user|>{{ message.content }}"
    "{% elif message.role == 'assistant' %}<|assistant|>{{ message.content }}<|end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def character_tokenizer() -> PreTrainedTokenizerFast:
    r"""One token for each printable ASCII character and for `\boxed{`; anything else is `<|unknown|>`."""
    tokens = [PAD, UNKNOWN, USER, ASSISTANT, END, BOXED, *CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed\{|[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
