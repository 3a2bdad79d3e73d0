"""The demo set: about 1,500 synthetic financial headlines and posts, made by this package and shipped inside it.

It lets a first run happen with no download and no account:

    command line           equipoise demo -o runs/demo
    Python                 equipoise.demo.path()

Every sentence, company and ticker is invented, and every label is computed; nothing here was said or judged by anyone.
The set has what makes real ones of its kind hard: most rows are near neutral, few are extreme, the same verb is good
for a profit and bad for a debt, posts are ironic, and the class was not derived from the score. So it shows that a
recipe works and what the balance does. It is **not** a benchmark: a number on it says nothing about what people write.

    column   what it holds
    text     a headline or a post
    score    a rater's polarity in [-1, 1], two decimals
    label    an annotator's class: positive, neutral, negative; goes with the score, is no function of it
    aspect   what the text is about: earnings, market, products, deals, management, legal
    source   headline or post

`python -m equipoise.demo` writes the file anew: the same seed gives the same bytes.
"""

from pathlib import Path

__all__ = ["SENTENCES", "path", "recipe_path"]


def path() -> Path:
    """Where the demo set lies: a CSV file inside the installed package.

    >>> path().name
    'financial_demo.csv'
    """
    return Path(__file__).with_name("financial_demo.csv")


def recipe_path() -> Path:
    """Where the demo's recipe lies, beside the set.

    >>> recipe_path().name
    'recipe.yaml'
    """
    return Path(__file__).with_name("recipe.yaml")


#: Three sentences that are not in the set, for a first prediction.
SENTENCES = (
    "Brightwater lifts its full-year profit outlook after a record quarter",
    "Regulator opens an inquiry into how the lender priced its loans",
    "The board will meet on Thursday to discuss the dividend",
)
