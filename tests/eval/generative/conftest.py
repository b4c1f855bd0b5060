import pytest


@pytest.fixture
def tiny():
    """The keys of a run's config that `build_model` reads: models of two blocks and width 32."""
    return {
        "width": 32,
        "depth": 2,
        "heads": 2,
        "mlp_ratio": 2.0,
        "positions": "learned",
        "positional_scale": 1.0,
        "sigma_data": 1.0,
        "p_mean": -0.3,
        "p_std": 0.8,
        "sampler_steps": 6,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "rho": 7.0,
        "churn": 0.0,
        "churn_noise": 1.0,
    }
