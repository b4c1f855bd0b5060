"""Until the gallery takes the title from the chapter."""

from analysis.report.studies.sequential.summary import title as title
