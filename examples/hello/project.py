"""One landing file, two assets: the words of a text, and how many there are."""

import freshet as fr

text = fr.source("text")


@fr.asset
def words(text: str) -> list[str]:
    return text.lower().split()


@fr.asset
def count(words: list[str]) -> int:
    return len(words)


project = fr.Project([text, words, count], sensors=[fr.files("landing/text.txt", source=text)])
