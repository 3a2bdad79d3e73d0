"""The answers as OpenAPI tells them. They are not checked against these when they are sent: the tests do that."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Explanation", "Health", "Info", "PredictResponse", "Reloaded", "Ticket", "Told", "body_of"]


class _ClassValue(BaseModel):
    value: str | list[str] = Field(description="the class; of a multilabel task its classes")
    probabilities: dict[str, float]


class PredictResponse(BaseModel):
    """Every task's prediction for each text, in the order sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "run": "reviews",
                    "version": "3f0c6f2f9d1b",
                    "predictions": [
                        {
                            "polarity": 0.81,
                            "label": {
                                "value": "positive",
                                "probabilities": {"negative": 0.02, "neutral": 0.08, "positive": 0.9},
                            },
                        }
                    ],
                }
            ]
        }
    )

    run: str
    version: str = Field(description="of the run's model files")
    predictions: list[dict[str, float | _ClassValue | None]] = Field(
        description="a score is a number, a class its name and the classes' probabilities"
    )


class _Word(BaseModel):
    text: str
    start: int = Field(description="where it begins in its text, in characters")
    end: int
    field: str = Field(description="the text column")
    contribution: float | None = Field(
        description="how far it pushed the value up (or down, below 0); null where the model did not read so far"
    )


class Explanation(BaseModel):
    """What each word contributed; contributions and `rest` sum to `value - baseline`, up to `completeness_error`."""

    run: str
    version: str
    task: str
    target: str | None
    unit: str = Field(description="score, in the user's units, or log-odds of the class")
    value: float
    baseline: float = Field(description="the value of a text that says nothing")
    words: list[_Word]
    rest: float = Field(description="the contribution of what is no word")
    completeness_error: float


class _Task(BaseModel):
    name: str
    kind: str
    range: tuple[float, float] | None
    labels: list[str] | None
    multilabel: bool


class _MainMetric(BaseModel):
    split: str
    metric: str
    value: float


class _Run(BaseModel):
    name: str
    version: str
    loaded_at: str
    text: list[str] = Field(description="the text column, or the two of a pair")
    device: str
    precision: str
    tasks: list[_Task]
    metrics: dict[str, _MainMetric] = Field(description="task -> its main metric, on the test split or on validation")


class Info(BaseModel):
    """What is served, and what a request may cost."""

    version: str
    default: str
    limits: dict[str, float]
    runs: list[_Run]


class Health(BaseModel):
    """Whether requests are taken."""

    status: str


class Ticket(BaseModel):
    """What a table is asked for by."""

    id: str


class Told(BaseModel):
    """How far a table is."""

    state: str = Field(description="receiving, waiting, running, done or failed")
    run: str
    rows_done: int
    rows_total: int | None = Field(default=None, description="of text files the lines: at least the rows")
    bad: int = Field(description="rows that could not be predicted; the result's column 'error' tells why")
    error: str | None = None


class Reloaded(BaseModel):
    """A run, loaded anew."""

    run: str
    version: str
    replaced: str


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body for OpenAPI. Bodies are read by ourselves, within limits, so FastAPI does not see them."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
