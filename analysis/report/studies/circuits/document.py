"""Until the report chooses its chapter by kind."""

from analysis.report.studies.circuits import compose_circuits as compose_circuits
