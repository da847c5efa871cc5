"""The generator's own tokenizer: chat prompts to token ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hnlm_ray.errors import UserError
from hnlm_ray.generate.prompting import Prompt


class ChatTokenizer:
    """Turns prompts into token ids through the model's chat template.

    A template that knows no system role gets the system text in front of the user's. Raises `UserError` for a folder
    without a tokenizer, or a tokenizer without chat template.
    """

    def __init__(
        self, model: str, *, trust_remote_code: bool = False, template_args: dict[str, Any] | None = None
    ) -> None:
        from jinja2 import TemplateError
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"llm.model {model!r} has no tokenizer that can be loaded ({reason}); give a folder with "
                "tokenizer.json and tokenizer_config.json, or name one in llm.tokenizer"
            ) from error
        if not self._tokenizer.chat_template:
            raise UserError(
                f"llm.model {model!r} has no chat template; choose the chat (instruct) version of the model"
            )
        self._template_args = template_args or {}
        self._special = [token for token in self._tokenizer.all_special_tokens if token.strip()]
        self._system_role = True
        try:
            self._render(Prompt("system", "user"))
        except TemplateError:
            self._system_role = False

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt, up to where the answer begins."""
        return self.tokenize(self.render(prompts))

    def render(self, prompts: Sequence[Prompt]) -> list[str]:
        """Each prompt as the text of its chat template, up to where the answer begins."""
        return [self._render(prompt) for prompt in prompts]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts; the template has written the special tokens already."""
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)[
            "input_ids"
        ]
        return ids

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each answer."""
        texts: list[str] = self._tokenizer.batch_decode([list(ids) for ids in token_ids], skip_special_tokens=True)
        return texts

    def messages(self, prompt: Prompt) -> list[dict[str, str]]:
        """The prompt as chat messages; a special token that the data spells out is taken apart."""
        system, user = prompt.system, prompt.user
        for token in self._special:
            user = user.replace(token, " ".join(token))
        if not self._system_role:
            return [{"role": "user", "content": f"{system}\n\n{user}"}]
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]

    def _render(self, prompt: Prompt) -> str:
        text: str = self._tokenizer.apply_chat_template(
            self.messages(prompt), tokenize=False, add_generation_prompt=True, **self._template_args
        )
        return text


def is_local_folder(model: str) -> bool:
    """Whether a model's name is a folder of this machine, not a Hub name."""
    return Path(model).expanduser().is_dir()


def has_tokenizer(model: str) -> bool:
    """Whether the tokenizer of a folder or Hub name can be loaded without a network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = "tokenizer_config.json"
    try:
        return (Path(model).expanduser() / name).is_file() or isinstance(try_to_load_from_cache(model, name), str)
    except HFValidationError:  # a path that is no folder
        return False


def check_on_hub(key: str, model: str) -> None:
    """Refuse a Hub name whose config is not on this machine and cannot be fetched: `UserError`."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    name = "config.json"
    try:
        if not isinstance(try_to_load_from_cache(model, name), str):  # what is here needs no network
            hf_hub_download(model, name)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key} {model!r} is no folder, and the Hub does not give a model of this name ({reason}); "
            "check the name, or give a Hugging Face model folder"
        ) from None
