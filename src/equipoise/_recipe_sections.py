"""The sections of a recipe but the tasks: what each key may say, and its help text. `recipe.py` reads and checks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from equipoise._recipe_problems import types_in

__all__ = [
    "AdapterSettings",
    "BalanceSettings",
    "DataSettings",
    "ModelSettings",
    "Section",
    "TableSettings",
    "TrainingSettings",
]


class Section(BaseModel):
    """Unknown keys are errors; nothing changes after it is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts true as 1, so `batch_size: true` would go through.
        if isinstance(value, bool) and types_in(cls.model_fields[str(info.field_name)].annotation) & {int, float}:
            raise ValueError("input should be a number")
        return value


class AdapterSettings(Section):
    """Train a few added weights in place of the whole backbone."""

    type: Literal["lora", "mtl_lora"] = Field(
        default="lora",
        description="mtl_lora = beside matrices that all share, each task has a transform and a mixture of its own; "
        "the backbone then runs once a task, so K tasks cost K times as much",
    )
    rank: int = Field(default=16, ge=1, description="rank of the added matrices")
    alpha: float = Field(default=32.0, gt=0, description="their scale: the update counts alpha / rank times")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="dropout on the adapter's input")
    targets: list[str] | None = Field(
        default=None, description="names of the linear layers to adapt; null = every linear layer of the backbone"
    )
    merge: bool = Field(
        default=True,
        description="lora: fold the adapter into the saved model, which is then stock; false = save it alone, as mtl_lora "
        "always is (`equipoise export --task` folds one task's)",
    )
    quantization: Literal["4bit"] | None = Field(
        default=None, description="lora: hold the frozen backbone in 4 bits (needs equipoise[quantization] and a GPU)"
    )
    up_projections: int = Field(
        default=3, ge=1, description="mtl_lora: up-projections that all share, and each task mixes in its own way"
    )
    temperature: float = Field(
        default=0.1, gt=0, description="mtl_lora: of the mixture's softmax; the lower, the more one matrix prevails"
    )

    @model_validator(mode="before")
    @classmethod
    def _only_the_keys_of_its_type(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        kind = str(data.get("type", "lora"))
        for key in NOT_OF_TYPE.get(kind, ()):
            if data.get(key) not in (None, False):
                other = "lora" if kind == "mtl_lora" else "mtl_lora"
                why = " Every task has weights of its own, so no one model holds them all." if key == "merge" else ""
                raise ValueError(f"{key} goes with type: {other}, not with {kind}.{why} Leave it out")
        return {**data, "merge": False} if kind == "mtl_lora" else data

    @model_serializer(mode="wrap")
    def _without_the_other_types_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key not in NOT_OF_TYPE[self.type]}


#: Kind of adapter -> settings that mean nothing with it.
NOT_OF_TYPE = {"lora": ("up_projections", "temperature"), "mtl_lora": ("merge", "quantization")}


class ModelSettings(Section):
    """The language model and how its tokens become one vector."""

    backbone: str = Field(
        default="minilm",
        min_length=1,
        description="'minilm' (the encoder that comes as a Python package), a local folder or a Hugging Face id; "
        "hub:OWNER/NAME is never a folder",
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a Hugging Face id")
    trust_remote_code: bool = Field(
        default=False,
        strict=True,
        description="run the code that the backbone brings along; only where you have read it. See SECURITY.md",
    )
    pooling: Literal["auto", "native", "mean", "cls", "last"] = Field(
        default="auto",
        description="native = the stock sequence-classification head's own, which keeps the folder stock; auto = native",
    )
    adapter: AdapterSettings | None = Field(default=None, description="null = train every weight")
    max_length: int = Field(
        default=128, ge=4, description="tokens per text (both texts of a pair); the rest is cut off"
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="dropout before the heads; null = what the backbone's configuration says"
    )
    gradient_checkpointing: bool = Field(default=False, description="recompute activations: less memory, more time")
    private_layers: int = Field(
        default=0,
        ge=0,
        description="so many of the backbone's last blocks exist once a task; each costs its time once a task",
    )
    private_when: Literal["always", "conflict"] = Field(
        default="always",
        description="conflict = tasks share those blocks too until their gradients have disagreed there for long",
    )
    private_patience: int = Field(
        default=100, ge=1, description="conflict: steps that two tasks must disagree for without a break"
    )
    private_below: float = Field(
        default=-0.05, ge=-1, le=1, description="conflict: they disagree where their running mean cosine is below this"
    )

    @model_validator(mode="after")
    def _private_layers_go_with_the_rest(self) -> ModelSettings:
        if self.private_when == "conflict" and not self.private_layers:
            raise ValueError("model.private_when: conflict needs model.private_layers, which is 0")
        if self.private_when == "conflict" and self.adapter is not None:
            raise ValueError(
                "model.private_when: conflict trains whole blocks; set model.adapter to null, or use always"
            )
        if self.private_layers and self.adapter is not None and self.adapter.quantization is not None:
            raise ValueError("model.private_layers: blocks in 4 bits cannot be copied. Set quantization to null")
        if self.private_layers and self.adapter is not None and self.adapter.type == "mtl_lora":
            raise ValueError("model.private_layers: with mtl_lora every layer is the tasks' own already. Set it to 0")
        return self


class TableSettings(Section):
    """One table of several."""

    path: str = Field(description="a file, or hub:org/name[:config]")
    validation: str | None = Field(default=None, description="this table's own validation file")
    test: str | None = Field(default=None, description="this table's own test file")
    text: str | tuple[str, str] | None = Field(default=None, description="its text column(s); null = data.text")
    tasks: list[str] | None = Field(default=None, description="the tasks that it carries labels for; null = all")


class DataSettings(Section):
    """Where the rows come from and how they are split."""

    train: str | list[TableSettings] = Field(
        description="csv, tsv, jsonl, parquet (csv, tsv and jsonl also .gz), hub:org/name[:config], or a list of tables"
    )
    validation: Annotated[float, Field(gt=0, lt=1)] | str | None = Field(
        default=0.1, description="a share of train, a file, or null"
    )
    test: Annotated[float, Field(gt=0, lt=1)] | str | None = Field(
        default=None, description="a share of train, a file, or null"
    )
    text: str | tuple[str, str] = Field(default="text", description="the text column, or [a, b] for a pair")
    drop_leaks: bool = Field(
        default=False, description="drop training rows whose text also stands in validation or test (else only told)"
    )
    max_rejected: float = Field(
        default=0.05, ge=0, le=1, description="stop where at least this share of the rows cannot be used"
    )
    max_train_rows: int | None = Field(
        default=None, ge=1, description="train on a seeded sample of this many rows; null = all"
    )


class BalanceSettings(BaseModel):
    """How the tasks' losses are weighted. The method's own settings stand beside these keys."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str = Field(
        default="auto", description="a name that `equipoise balancers` lists; auto = dao, see docs/study.md"
    )
    shared: Literal["auto", "representation", "last_layer", "adapter", "all"] = Field(
        default="auto", description="where the tasks' gradients are measured; auto = where the method is best measured"
    )
    held_out: float = Field(default=0.05, gt=0, lt=1, description="share of training rows that only weigh tasks (coba)")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"method": data} if isinstance(data, str) else data

    @property
    def options(self) -> dict[str, Any]:
        """The method's own settings."""
        return dict(self.model_extra or {})


class TrainingSettings(Section):
    """The optimisation."""

    epochs: float = Field(default=4, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many updates; null = by epochs")
    batch_size: int = Field(default=32, ge=1, description="rows per device and step")
    accumulation: int = Field(default=1, ge=1, description="steps whose gradients are added up to one update")
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="AdamW's rate at its highest; auto = 2e-4 for a backbone 384 wide or for an adapter, and less by the "
        "square of the width for wider ones (768: 5e-5)",
    )
    head_learning_rate: float | None = Field(
        default=None, gt=0, description="the heads' own rate; null = ten times learning_rate"
    )
    layer_decay: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of learning_rate that is left from each block to the one below it; null = all learn alike",
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's decay; biases and norms are left out")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the updates over which the rate rises")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="linear", description="how the rate falls then")
    max_grad_norm: float | None = Field(
        default=1.0, gt=0, description="gradients are clipped to it; null = no clipping"
    )
    consistency: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        default="auto",
        description="run every batch twice under different dropout and add this times how far the answers differ (R-Drop; "
        "half of its alpha); auto = 1 where every weight trains and there is dropout, else null; null = once",
    )
    on_nonfinite: Literal["stop", "skip", "rollback"] = Field(
        default="stop",
        description="a loss, gradient, weight or label that is NaN or infinite: stop = end with an error; skip = leave that "
        "update out, 10 in a row at most; rollback = go back to the last checkpoint and on at half the rate. See docs/watch.md",
    )
    max_rollbacks: int = Field(
        default=3, ge=1, description="rollback: so many times at most; then the run ends with the error"
    )
    averaging: Literal["auto", "ema", "swa"] | None = Field(
        default="auto",
        description="judge and save an average of the weights: ema = a decaying one, swa = the plain mean of the last "
        "updates; auto = ema where every weight trains, else null; null = the weights themselves",
    )
    averaging_decay: float = Field(
        default=0.999, ge=0, lt=1, description="share of the old average that ema keeps; early in a run it keeps less"
    )
    averaging_start: float = Field(
        default=0.5, ge=0, lt=1, description="share of the updates after which swa begins to average"
    )
    calibrate: Literal["auto"] | bool = Field(
        default="auto",
        description="after the training, put into the output layer the straight line from each score's outputs to the "
        "validation split's labels, and a temperature for each task of exclusive classes, where rows that these have not "
        "seen are met better with them; without a validation split nothing is changed; auto = true, but where each "
        "process has a part of the model only (fsdp, deepspeed)",
    )
    seed: int = Field(default=0, ge=0, description="for the split, the order, the heads and dropout")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto = bf16 where the device has it in hardware, else fp32"
    )
    group_by_length: bool = Field(default=True, description="batches of texts of similar length: less padding")
    evaluate_every_steps: int | None = Field(default=None, ge=1, description="null = after every epoch")
    early_stopping: int | None = Field(
        default=None, ge=1, description="stop after this many evaluations without a better one; null = never"
    )
    select: str = Field(
        default="mean_rank", description="the best checkpoint: mean_rank over the tasks, or one metric: polarity.mse"
    )
    log_every_steps: int = Field(default=10, ge=1, description="one line in history.jsonl each")
    checkpoint_every_steps: int | None = Field(
        default=None, ge=1, description="resumable checkpoints in between; null = at every evaluation"
    )
    checkpoints_kept: int = Field(
        default=2,
        ge=1,
        description="so many of the latest can be resumed from, while training; one more is on disk while it is written. Each "
        "takes about three times the size of the weights that train; with 1 there is none before a damaged one",
    )
    keep_checkpoints: bool = Field(default=False, description="keep them in the run folder when the run is finished")
    workers: int = Field(default=0, ge=0, description="processes that prepare batches; 0 = none beside the main one")
    compile: bool = Field(default=False, description="torch.compile the model")
    trackers: list[Literal["trackio", "tensorboard", "mlflow", "wandb"]] = Field(
        default_factory=list,
        description="where losses, weights and metrics also go; [] = nowhere. See docs/tracking.md",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="passed on to transformers.TrainingArguments as they are (fsdp, deepspeed, ...)",
    )

    @property
    def sharding(self) -> str | None:
        """Which of `arguments` gives each process a part of the model only."""
        return next((key for key in ("fsdp", "deepspeed") if self.arguments.get(key)), None)
