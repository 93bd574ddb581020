"""A first grid from Python: plan it, run it, look at its tables, draw one of them. About two minutes on two cores.

    python examples/first_grid.py

Or paste it into a notebook, a `# %%` a cell. What the columns of the tables are: docs/python.md.
"""

import xling

GRID = ["sweeps=demo", "tracking.mode=off"]  # the overrides of the command line

# %% What would be run? Nothing is run or written by this.
plan = xling.plan(*GRID)
plan.print(workers=2)
print(f"{len(plan.cells)} cells by {len(plan.steps)} stages, {len(plan.to_run)} of them to run")

# %% Run it: in worker processes of this machine, like `xling run sweeps=demo`. Again, and it goes on where it stopped.
grid = xling.run(*GRID)
# grid = xling.load("outputs", "demo")  # a grid that is there already

# %% Win rates against the target's own SFT policy, in percent, with 95 % intervals.
cells = grid.cells
print(cells[["source_lang", "target_lang", "win_rate", "win_rate_low", "win_rate_high", "status"]])
print(cells.pivot(index="source_lang", columns="target_lang", values="win_rate").round(1))

# %% Is a foreign reward model worse than the target's own? An analysis is a table with its caveats.
for finding in grid.analyse("cross_vs_home"):
    print(finding.title, finding.table.round(2), finding.note, *finding.left_out, sep="\n")

# %% Item by item: do the prompts that a foreign reward model wins have longer answers?
items = grid.items[grid.items.source_lang != grid.items.target_lang]
print(items.groupby(["target_lang", items.win > 0.5])["length"].mean().round(1))

# %% What was said: the best and the worst of a cell by its reward model.
said = grid.samples[(grid.samples.source_lang == "en") & (grid.samples.target_lang == "tr")].sort_values("reward")
print(said[["text", "response", "reward", "quality"]].iloc[[0, -1]].to_dict("records"))

# %% A picture of your own, beside report.html and matrix.png in grid.folder.
import matplotlib.pyplot as plt  # noqa: E402  # a notebook imports where it needs

figure, axes = plt.subplots(figsize=(4, 2.5), layout="constrained")
for place, row in enumerate(cells.itertuples()):
    axes.plot([row.win_rate_low, row.win_rate_high], [place, place], color="tab:gray")
    axes.plot(row.win_rate, place, "o", color="tab:blue")
axes.axvline(50, color="black", linewidth=0.8)
axes.set(yticks=range(len(cells)), yticklabels=cells.source_lang + " → " + cells.target_lang, xlabel="win rate, %")
figure.savefig(grid.folder / "wins.png")
print(f"Drawn: {grid.folder / 'wins.png'}")
