"""A request's work as steps with a gap: decode, hand over an engine call, go on with its outputs.

    def double(servable, x):
        outputs = yield EngineCall(servable, {"x:0": x}, ("y:0",))
        return outputs["y:0"]

A generator holds no thread while its call waits for a batch, and whatever it has opened with `with`
(the model version it uses) is let go when it ends, fails, or is dropped.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from serving.engines.saved_model import EngineError
from serving.server.errors import ServingError

Outputs: TypeAlias = dict[str, np.ndarray]
T = TypeVar("T")


@dataclass(frozen=True)
class EngineCall:
    """One run of a model, asked for by a request.

    Attributes:
      servable: the version, in use by the steps that ask.
      feeds: tensor name -> array.
      fetches: tensor names, each once.
      api: `Predict`, `Classify`, ..., for the metrics.
      examples: how many tf.Examples it holds; 0 when its inputs are tensors.
    """

    servable: Any
    feeds: Mapping[str, np.ndarray]
    fetches: tuple[str, ...]
    api: str = "Predict"
    examples: int = 0

    def run(self) -> Outputs:
        """Tensor name -> array, computed in the calling thread.

        Raises:
          ServingError: what the engine refuses.
        """
        return run_engine(self.servable.engine, self.feeds, self.fetches)


#: What a request does; it ends with a T.
Steps: TypeAlias = Generator[EngineCall, Outputs, T]


def run_engine(engine: Any, feeds: Mapping[str, np.ndarray], fetches: tuple[str, ...]) -> Outputs:
    """`engine.run_tensors`, its errors as a client sees them.

    Raises:
      ServingError: what the engine refuses.
    """
    try:
        return engine.run_tensors(feeds, fetches)
    except EngineError as error:
        raise ServingError(error.code, str(error)) from error


def run_now(steps: Steps[T]) -> T:
    """What the steps return, every call run at once in this thread.

    Raises:
      ServingError: what a step or the engine refuses.
    """
    try:
        call = next(steps)
        while True:
            try:
                outputs = call.run()
            except ServingError as error:
                call = steps.throw(error)
            else:
                call = steps.send(outputs)
    except StopIteration as stop:
        return stop.value
