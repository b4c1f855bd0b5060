import pytest

from eval.secrets import hide, hide_in_command, is_secret, without_secrets


def test_names_of_secrets():
    for name in ("hub_token", "HF_TOKEN", "WANDB_API_KEY", "password", "client-secret", "key"):
        assert is_secret(name)
    for name in ("max_new_tokens", "eos_token", "pad_token", "keys", "keep", "model", 3):
        assert not is_secret(name)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("x.py --hub_token abc --steps 3", "x.py --hub_token *** --steps 3"),
        ("x.py --hub_token=abc", "x.py --hub_token=***"),
        ("x.py --hub-token abc --api_key", "x.py --hub-token *** --api_key"),
        ("env HF_TOKEN=abc WANDB_API_KEY=def x.py", "env HF_TOKEN=*** WANDB_API_KEY=*** x.py"),
        ("x.py --url https://u?token=abc&a=b", "x.py --url https://u?token=***&a=b"),
        ("x.py --max_new_tokens 5 --eval_tokens=7", "x.py --max_new_tokens 5 --eval_tokens=7"),
        ("x.py --model hf_abcdefghijklmnopqrst", "x.py --model ***"),
    ],
)
def test_commands(typed, kept):
    assert hide_in_command(typed.split(" ")) == kept.split(" ")


def test_inline_yaml_and_values_of_variables(monkeypatch):
    assert hide("{hub_token: abc, sigma: 0.1, 'api_key': \"d e\"}") == "{hub_token: ***, sigma: 0.1, 'api_key': ***}"
    monkeypatch.setenv("MY_SECRET", "correct horse battery")
    assert hide("--note 'correct horse battery'") == "--note '***'"


def test_mappings_go_without():
    options = {"a": {"hub_token": "x", "b": 1}, "arms": [{"api_key": "y", "name": "es"}], "hub_token": None}
    assert without_secrets(options) == {"a": {"b": 1}, "arms": [{"name": "es"}]}
