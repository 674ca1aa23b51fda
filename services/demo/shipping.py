"""A price by rules, with parameters: the demo's Python-function model.

MLflow keeps this file as it is and runs it where the model is loaded ("models from code"), so
it may import only what the model's requirements name, and nothing of Slipway.
"""

import mlflow
import numpy as np

BASE_EUR = 3.9
EUR_PER_KG = 0.55
EUR_PER_100_KM = 0.35
EXPRESS_FACTOR = 1.6


class ShippingPrice(mlflow.pyfunc.PythonModel):  # type: ignore[misc] # MLflow has no types
    """n rows of weight, distance and express to n prices in EUR."""

    # Without type hints: MLflow takes them for a schema and warns of any that is none.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Prices; `params` may raise the fuel surcharge, grant a discount, set the decimals."""
        del context
        chosen = params or {}
        price = (
            BASE_EUR
            + EUR_PER_KG * model_input["weight_kg"].to_numpy(dtype=float)
            + EUR_PER_100_KM * model_input["distance_km"].to_numpy(dtype=float) / 100
        )
        price = price * np.where(model_input["express"].to_numpy(dtype=bool), EXPRESS_FACTOR, 1.0)
        price = price * (1 + chosen.get("fuel_surcharge_percent", 8.0) / 100)
        price = price * (1 - chosen.get("discount_percent", 0.0) / 100)
        return np.round(price, int(chosen.get("decimals", 2)))


mlflow.models.set_model(ShippingPrice())
