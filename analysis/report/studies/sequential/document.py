"""Until the report chooses its chapter by kind."""

from analysis.report.studies.sequential import compose_continual as compose_continual
