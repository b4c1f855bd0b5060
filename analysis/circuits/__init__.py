"""Which attention heads and MLPs do a task's work, does a circuit carry over to a larger model, does training move it?

Found by `attribution.attribute` and `edges.attribute_edges`, judged by `faithfulness.faithfulness_curve` and
`edge_circuits.edge_faithfulness_curve`; carried over by `transfer.transfer_table`, compared by `change.task_change`.
`study.Study` measures all of it; `planted_recovery.planted_recovery` checks the methods on circuits that are known.
"""
