"""The character tokenizer of the tiny models, in the format of any Hugging Face tokenizer."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
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
# Plain text: an answer goes on where the user's message ends.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ message.content }}"
    "{% elif message.role == 'assistant' %}{{ message.content }}<|end|>{% endif %}"
    "{% endfor %}"
)


def character_tokenizer(chat_template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    r"""One token for each printable ASCII character, for the line break and for `\boxed{`.

    It is written as a byte-level BPE without merges, because `AutoTokenizer` rebuilds the tokenizer of every qwen2
    checkpoint as one, whatever its tokenizer.json says. Any other character is `<|unknown|>`, one for each of its
    bytes; in a qwen2 checkpoint it is left out.
    """
    byte_level = {"\n": "Ċ", " ": "Ġ"}  # how byte-level BPE writes the two characters that are not printed
    tokens = [PAD, UNKNOWN, USER, ASSISTANT, END, BOXED, *(byte_level.get(c, c) for c in CHARACTERS)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(BOXED, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=chat_template,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
