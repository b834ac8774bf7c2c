"""What commands import, for the process that they are forked from; nothing is computed here."""

import matplotlib.backends.backend_agg  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401  # the nano model's

import crypsis.analysis.claims.scorecard
import crypsis.analysis.claims.scorecard_figure
import crypsis.analysis.report.html
import crypsis.cli
import crypsis.study.pipeline
import crypsis.study.run  # noqa: F401
