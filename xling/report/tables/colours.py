"""The colours of tables, pictures and the page. What gets which of them is said by `Scale` (analysis/matrix/types.py).

Blue and orange, above and below a middle, are told apart by all eyes. Lines differ in their markers too.
"""

TERMINAL = {"": "", "above": "blue", "below": "dark_orange", "hole": "dim", "quiet": "dim"}  # by the look of a cell

# Lines of figures: Okabe and Ito (2008). Maps have those of the page on paper: white to blue above the middle, to
# orange below, so that a grey printer darkens them steadily on either side.
LINES = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

# The page by theme: light, dark, on paper. The ends of its maps (hi, lo, seq) are light enough (dark: dark enough) for
# one colour of text on all shades; its lines (c0 to c6) are dark enough to be read as text.
PAGE = {
    "page": ("#fdfdfc", "#131518", "#fff"),
    "card": ("#ffffff", "#1a1d21", "#fff"),
    "ink": ("#17191c", "#e9eaec", "#000"),
    "quiet": ("#595f66", "#a4abb3", "#444"),
    "line": ("#dcdfe2", "#32373d", "#ccc"),
    "strong": ("#8b9198", "#747c85", "#777"),
    "link": ("#1558a0", "#8ec1f5", "#000"),
    "hi": ("#5b9fdc", "#1b61a8", "#5b9fdc"),
    "lo": ("#e59a45", "#9a500a", "#e59a45"),
    "seq": ("#63b5a4", "#136455", "#63b5a4"),
    "hatch": ("#c9cdd1", "#40464d", "#c9cdd1"),
    "warn": ("#8a4b00", "#f2b35e", "#000"),
    "mark": ("#ffe48a", "#6b5600", "#ffe48a"),
    "c0": ("#17191c", "#e9eaec", "#000"),
    "c1": ("#0b6cb3", "#62b0f2", "#0b6cb3"),
    "c2": ("#c4540a", "#f0914a", "#c4540a"),
    "c3": ("#0a8060", "#45c9a2", "#0a8060"),
    "c4": ("#a8477f", "#e492c2", "#a8477f"),
    "c5": ("#8f6a00", "#e0b640", "#8f6a00"),
    "c6": ("#4a6fd0", "#9db4ff", "#4a6fd0"),
}


ABOVE, BELOW = PAGE["hi"][2], PAGE["lo"][2]  # of maps in figures
SHADES = 20  # steps of a map that is drawn without a script


def page_colours() -> dict[str, str]:
    """LIGHT, DARK, PAPER -> properties of CSS; SHADES -> a class a step."""
    shades = " ".join(f".s{step} {{ --x: {step / SHADES:g}; }}" for step in range(SHADES + 1))
    return {"SHADES": shades} | {
        theme: " ".join(f"--{name}: {colours[number]};" for name, colours in PAGE.items())
        for number, theme in enumerate(("LIGHT", "DARK", "PAPER"))
    }
