"""Options of the dense bundle adjustment (section ``bundle_adjustment``)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from metric_slam.config.section import Section


class BundleAdjustmentConfig(Section):
    """Weights and limits of the dense bundle adjustment.

    Cost function: thirdparty/droid_backends/include/droid_backends/dense_ba.h.
    """

    iterations: int = Field(8, ge=1, description="linearisations, unless a stage sets its own number")
    solver: Literal["levenberg_marquardt", "gauss_newton"] = Field(
        "levenberg_marquardt",
        description="levenberg_marquardt: rejects steps that raise the robust cost; gauss_newton: takes every step, as "
        "DROID-SLAM does",
    )
    ridge: float = Field(
        0.1,
        ge=0,
        description="gauss_newton: added to the diagonal of the system of poses (DROID-SLAM's factor_graph.py)",
    )
    step_damping: float = Field(1e-4, ge=0, description="gauss_newton: share of that diagonal that is added as well")
    global_ridge: float = Field(1e-2, ge=0, description="ridge of the optimisation over the whole trajectory")
    global_step_damping: float = Field(
        1e-5, ge=0, description="step_damping of the optimisation over the whole trajectory"
    )
    flow_sigma_px: float = Field(
        3.0,
        gt=0,
        description="assumed error of one cell's flow, pixels at working resolution; larger than its scatter, because "
        "errors of neighbouring cells are correlated",
    )
    flow_loss: Literal["none", "huber", "geman_mcclure", "cauchy"] = Field(
        "geman_mcclure", description="robust loss of flow residuals"
    )
    flow_loss_width_px: float = Field(
        3.0, gt=0, description="width of that loss: residual at which it departs from the square, pixels"
    )
    prior_mode: Literal["none", "metric", "droid"] = Field(
        "metric",
        description="metric: relative depth error with a bounded scale; droid: "
        "the quadratic in inverse depth of DROID-SLAM's RGB-D mode",
    )
    prior_loss: Literal["none", "huber", "geman_mcclure", "cauchy"] = Field(
        "cauchy", description="robust loss of prior residuals"
    )
    prior_loss_width: float = Field(
        0.2, gt=0, description="width of that loss: relative error at which it departs from the square"
    )
    scale_step_sigma: float = Field(
        0.02, ge=0, description="assumed relative change of the prior's scale between keyframes; 0: not coupled"
    )
    baseline_loss_width: float = Field(
        2.0, gt=0, description="width of the robust loss of measured baselines, standard deviations"
    )
    initial_damping: float = Field(
        1e-6,
        ge=0,
        description="first Levenberg-Marquardt damping, relative to the diagonal; "
        "small, because the scale of a window is a soft direction",
    )
    droid_alpha: float = Field(
        0.05, gt=0, description="weight of the prior in droid mode (DROID-SLAM's droid_kernels.cu:1405)"
    )
    min_depth: float = Field(
        0.02,
        gt=0,
        description="nearest depth of a cell, units of the map: below any scene, it only bounds the arithmetic",
    )
    max_depth: float = Field(
        1000.0, gt=0, description="farthest depth of a cell, units of the map: stands for infinity, as of the sky"
    )
