"""Scores responses with the reward model in this folder, without xling; needs torch, transformers and safetensors.

    from load_reward import Reward
    Reward("FOLDER").score(["a prompt"], ["a response"])    # one number each; higher is better

Token ids are those of training: prompt and response are tokenised apart, so that they meet at the same border. What
load_reward.json calls `reads`: `logit`, a classifier's own; `states`, a head on the pooled states of an AutoModel;
`log_ratio`, by how many nats the response is more probable than under the model in `reference`; `features`, a head on
what a frozen language model sees of the response: how probable it finds its tokens (`likelihood`, in nats and counts),
its `last` state, and the `mean` of its states.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file


class Reward:
    def __init__(self, folder: str | Path = Path(__file__).parent) -> None:
        self.how = json.loads((Path(folder) / "load_reward.json").read_text(encoding="utf-8"))
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        kind = getattr(transformers, self.how["class"])
        dtype = getattr(torch, self.how["dtype"])
        how = {"dtype": dtype, "use_safetensors": True}
        self.model = kind.from_pretrained(folder, trust_remote_code=False, **how).eval()
        if self.how["reads"] == "log_ratio":
            self.reference: Any = kind.from_pretrained(
                Path(folder) / "reference", trust_remote_code=False, **how
            ).eval()
        self.head = {} if self.how["reads"] == "logit" else load_file(Path(folder) / "head.safetensors")

    @torch.inference_mode()
    def score(self, prompts: list[str], responses: list[str]) -> list[float]:
        return [self._score(*both) for both in zip(prompts, responses, strict=True)]

    def _score(self, prompt: str, response: str) -> float:
        inputs, said = self._inputs(prompt, response)
        if self.how["reads"] == "logit":
            return float(self.model(**inputs).logits.float() + self.how["bias"])
        if self.how["reads"] == "log_ratio":
            ours, theirs = (self._log_probability(one, inputs, said) for one in (self.model, self.reference))
            return float(self.head["weight"] * (ours - theirs) + self.head["bias"])
        out = self.model(**inputs, output_hidden_states=True)
        states = (out.decoder_hidden_states if "decoder_input_ids" in inputs else out.hidden_states)[-1][0].float()
        own = states if self.how["pair"] else states[-len(said) :]
        read = {"first": own[0], "last": own[-1], "mean": own.mean(0)}
        if "likelihood" in self.how["blocks"]:
            scores = out.logits[0, -len(said) - 1 : -1].float().log_softmax(-1)
            read["likelihood"] = self._likelihood(scores, torch.tensor(said, device=scores.device))
        row = torch.cat([read[name] for name in self.how["blocks"]]).cpu().to(self.head["weight"].dtype)
        return float(row @ self.head["weight"] + self.head["bias"])

    def _log_probability(self, model: Any, inputs: dict[str, Any], said: list[int]) -> float:
        scores = model(**inputs).logits[0, -len(said) - 1 : -1].float().log_softmax(-1)
        tokens = scores.gather(-1, torch.tensor(said, device=scores.device)[:, None])
        return float(tokens.mean() if self.how["blocks"] == ["mean"] else tokens.sum())

    def _inputs(self, prompt: str, response: str) -> tuple[dict[str, Any], list[int]]:
        how, (longest, longest_response, side) = self.how, self.how["limits"]
        if how["template"]:
            prompt, response = prompt.strip(), response.strip()
        asked = self._pieces(how["text_before"] + prompt + how["text_after"], longest, side)
        asked = [*how["before"], *asked, *how["between"]]
        said = [*self._pieces(how["space"] + response, longest_response, "right"), *how["after"]]
        inputs = {"input_ids": asked + said}
        if how["encoder_decoder"]:
            inputs = {"input_ids": asked, "decoder_input_ids": [self.model.config.decoder_start_token_id, *said]}
        if how["types"]:
            first, second = how["types"]
            inputs["token_type_ids"] = [first] * len(asked) + [second] * len(said)
        return {name: torch.tensor([ids], device=self.model.device) for name, ids in inputs.items()}, said

    def _pieces(self, text: str, limit: int, side: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if len(ids) > limit and self.how["template"] and side != "right":
            raise ValueError(f"The prompt has {len(ids)} tokens, and the chat template leaves room for {limit}.")
        return ids[-limit:] if side == "left" else ids[:limit]

    def _likelihood(self, scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        said = scores.gather(-1, ids[:, None])[:, 0]
        excess, gap = said - (scores.exp() * scores).sum(-1), scores.amax(-1) - said
        least = said.sort().values[: self.how["worst"]]
        least = torch.nn.functional.pad(least, (0, self.how["worst"] - len(least)))
        beyond = [(gap > limit).sum().float() for limit in self.how["gaps"]]
        whole = [said.mean(), said.sum(), *least, excess.mean(), excess.amin().clamp_max(0), gap.mean(), gap.amax()]
        return torch.stack([*whole, *beyond])


if __name__ == "__main__":
    print(*Reward().score([sys.argv[1]], [sys.argv[2]]))
