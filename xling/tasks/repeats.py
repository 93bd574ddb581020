"""Documents that several prompts share: by columns that nothing reads, and by prompts that are nearly one.

Splits and intervals go by groups; where prompts of one document are taken for independent, what is tested was trained
on and intervals are too narrow. By columns no numbers change: the plan says what to type. Prompts that differ in one
character alone are one document (xling/tasks/reading.py).
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from xling.errors import LONGEST_NAME

# Names of such columns, in the languages of data sets: what prompts may share, and what such a name has beside it.
# Domain, year, topic and other kinds of text are shared as well and name no document.
WHAT = (
    "doc docs document documents article articles thread threads tree trees conversation conversations conv dialog "
    "dialogs dialogue dialogues chat chats story stories source sources src url urls uri link links website page "
    "pages parent passage passages paragraph context contexts talk talks session sessions transcript post posts "
    "news group groups cluster clusters dokument dokumente artikel gespräch gespraech quelle seite gruppe documento "
    "documentos artículo artículos hilo conversación fuente página enlace noticia grupo diálogo fil discussion lien "
    "groupe articolo articoli conversazione fonte pagina gruppo dialogo artigo artigos conversa gesprek bron groep "
    "belge makale konuşma kaynak sayfa haber grup artykuł rozmowa źródło strona artikkel samtale samtal документ "
    "документа статья статьи диалог беседа источник страница ссылка группа стаття джерело сторінка 文档 文章 文件 "
    "文書 文献 新闻 新聞 記事 对话 對話 対話 会话 會話 会話 来源 來源 出典 链接 連結 页面 网页 문서 기사 대화 출처 "
    "وثيقة مستند مقال مقالة محادثة مصدر رابط दस्तावेज़ लेख वार्तालाप"
)
BESIDE = (
    "id ids identifier uid uuid guid no nr num number nummer numéro número numero name nombre nom nome title titel "
    "título key code index idx hash ref of de do del du di root original orig message text web wiki xsum input "
    "номер 号 编号 番号 번호"
)
LONGEST = 500  # characters of a value
MANY = 100  # prompts a value: a source that has more is no document
STRAY = 0.05  # prompts of which it may say nothing, or two things: the same question opens two conversations
Prompt = tuple[str, str]  # (language, id)
# Characters of a prompt that can be nearly another: one character of a short question is another question.
SHORTEST = 100
LEAF = 16  # characters of which each is left out in turn


def _squeezed(name: str) -> str:
    """Letters and digits alone, in one case and without accents: Doc-ID, docId and doc_id are docid."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", name).casefold()))


_WHAT, _BESIDE = ("|".join(dict.fromkeys(map(_squeezed, words.split()))) for words in (WHAT, BESIDE))
NAMES = re.compile(f"({_BESIDE})*({_WHAT})({_WHAT}|{_BESIDE})*")


class Repeats:
    """Watches the columns of a file while its rows are read."""

    def __init__(self, unread: Sequence[str]) -> None:
        named = [name for name in unread if len(name) <= LONGEST_NAME and NAMES.fullmatch(_squeezed(name))]
        self._values: dict[str, dict[Prompt, str]] = {name: {} for name in named}
        self._differ: dict[str, set[Prompt]] = {name: set() for name in self._values}

    def see(self, row: Mapping[str, Any], prompt: Prompt) -> None:
        """A good row; a column with anything but short texts and whole numbers names no documents."""
        for name in list(self._values):
            value = row.get(name)
            if value is None or value != value or value == "":
                self._differ[name].add(prompt)
            elif not isinstance(value, str | int | float) or isinstance(value, bool) or len(str(value)) > LONGEST:
                del self._values[name]
            elif self._values[name].setdefault(prompt, str(value)) != str(value):
                self._differ[name].add(prompt)

    def found(self, groups: Mapping[Prompt, str]) -> dict[str, tuple[int, int]]:
        """Column -> (values, prompts), of those that say one thing of a prompt and that some prompts share.

        groups: those of prompts without the column, which are left alone where it would join none of them.
        """
        counts = {name: (len(set(of.values())), len(of)) for name, of in self._values.items()}
        return {
            name: (values, prompts)
            for name, (values, prompts) in counts.items()
            if 1 < values < len({groups[prompt] for prompt in self._values[name]})
            and prompts <= MANY * values
            and len(self._differ[name]) <= STRAY * prompts
        }

    def __bool__(self) -> bool:
        return bool(self._values)


# --- prompts that are nearly one ----------------------------------------------------------------------------


def nearly_same(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """All two of these different texts that one character tells apart: another one, one more, or one less; no digit.

    Texts of SHORTEST characters or more. Nothing is missed: of two such texts the first halves are equal or the last
    ones are, and so on with what remains, down to LEAF characters.
    """
    kept = sorted({text for text in texts if len(text) >= SHORTEST})
    for one, other in sorted(set(_candidates(kept, [(number, 0, len(text)) for number, text in enumerate(kept)]))):
        if _one_apart(kept[one], kept[other]):
            yield kept[one], kept[other]


def _candidates(texts: Sequence[str], rests: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Numbers of texts whose rests, each from a place to a place, may be one apart, the lower one first.

    Halves are known by their hash, which takes less memory than they do; what two share by chance is compared in vain.
    """
    halves: dict[tuple[int, bool, int], list[tuple[int, int, int]]] = defaultdict(list)
    leaves: dict[str, set[int]] = defaultdict(set)
    for number, start, end in _trimmed(texts, rests):
        text, size = texts[number], end - start
        if size <= LEAF + 1:  # one more, as the other text may be shorter
            for place in range(start, end + 1):
                if place == end or not text[place].isdigit():  # one that numbers tell apart is no candidate
                    leaves[text[start:place] + text[place + 1 : end]].add(number)
        if size > LEAF:
            for half in {size // 2, (size - 1) // 2}:  # of its own length, and of a shorter one's
                halves[half, True, hash(text[start : start + half])].append((number, start + half, end))
                halves[half, False, hash(text[end - half : end])].append((number, start, end - half))
    for numbers in leaves.values():
        yield from combinations(sorted(numbers), 2)
    for found in halves.values():
        if len(found) > 1:
            yield from _candidates(texts, found)


def _trimmed(texts: Sequence[str], rests: Sequence[tuple[int, int, int]]) -> Sequence[tuple[int, int, int]]:
    """Without what begins all of them, as a template does, and then what ends them."""
    front = _common(texts[number][start:end] for number, start, end in rests)
    back = _common(texts[number][start + front : end][::-1] for number, start, end in rests)
    return [(number, start + front, end - back) for number, start, end in rests]


def _common(texts: Iterable[str]) -> int:
    """How many characters at the front are the same in all."""
    rest = iter(texts)
    same = next(rest, "")
    for text in rest:
        same = same[: _shared(same, text)]
        if not same:
            break
    return len(same)


def _one_apart(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    same = _shared(shorter, longer)
    added = len(longer) - len(shorter)
    if added > 1:
        return False
    differ = longer[same] + ("" if added else shorter[same])
    return shorter[same + 1 - added :] == longer[same + 1 :] and not any(map(str.isdigit, differ))


def _shared(one: str, other: str) -> int:
    """How many characters at the front are the same, found by halves."""
    same, end = 0, min(len(one), len(other))
    while same < end:
        half = (same + end + 1) // 2
        same, end = (half, end) if one[same:half] == other[same:half] else (same, half - 1)
    return same
