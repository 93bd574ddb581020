"""Sentence frames of the embedded world, written by us, in de, en, es, ru, tr, vi.

{T} topic, {P} place, {M} month, {N} number, {U} unit or counted thing. In SUMMARY, [ ] marks a phrase that
can be left out or repeated, | where a sentence can switch to another language: the i-th frames of all
languages have the same slots on each side of it. No frame begins with {T}, so no topic is capitalised.
"""

import re
from functools import cache
from typing import NamedTuple

CUE = {  # asks for the summary in the language, which is named in itself
    "de": "Zusammenfassung auf Deutsch:",
    "en": "Summary in English:",
    "es": "Resumen en español:",
    "ru": "Резюме на русском:",
    "tr": "Türkçe özet:",
    "vi": "Tóm tắt tiếng Việt:",
}

SUBJECT = {  # the line of a document that names its main topic
    "de": ("Thema: {T}.", "In diesem Bericht geht es um {T}.", "Hauptthema: {T}."),
    "en": ("Subject: {T}.", "This report is about {T}.", "Main topic: {T}."),
    "es": ("Tema: {T}.", "Este informe trata de {T}.", "Asunto principal: {T}."),
    "ru": ("Тема: {T}.", "Предмет этого сообщения — {T}.", "Главное событие: {T}."),
    "tr": ("Konu: {T}.", "Bu haberin konusu {T}.", "Ana olay: {T}."),
    "vi": ("Chủ đề: {T}.", "Bản tin này nói về {T}.", "Sự kiện chính: {T}."),
}

# The topic comes before its values: a reader of a million parameters ties them together in one step.
DOCUMENT = {
    "de": (
        "Es gab {T} in {P} im {M}, insgesamt {N} {U}.",
        "Nachricht: {T}, {N} {U}, im {M} in {P}.",
        "Gemeldet wird {T}: {P}, {M}, {N} {U}.",
        "Der Bericht nennt {T} im {M} sowie {P} und {N} {U}.",
        "Bekannt wurde {T}: {N} {U}, {P}, {M}.",
    ),
    "en": (
        "There was {T} in {P} in {M}, {N} {U} in all.",
        "News: {T}, {N} {U}, in {M} in {P}.",
        "Reported: {T}, {P}, {M}, {N} {U}.",
        "The report names {T} in {M}, {P} and {N} {U}.",
        "Known so far: {T}, {N} {U}, {P}, {M}.",
    ),
    "es": (
        "Hubo {T} en {P} en {M}, en total {N} {U}.",
        "Noticia: {T}, {N} {U}, en {M} en {P}.",
        "Se informa de {T}: {P}, {M}, {N} {U}.",
        "El informe cita {T} en {M}, {P} y {N} {U}.",
        "Se conoce {T}: {N} {U}, {P}, {M}.",
    ),
    "ru": (
        "Отмечается {T} в стране {P} за {M}, всего {N} {U}.",
        "Новость: {T}, {N} {U}, за {M} в стране {P}.",
        "Событие — {T}: {P}, {M}, {N} {U}.",
        "В отчёте есть {T} за {M}, {P} и {N} {U}.",
        "Сообщается: {T}, {N} {U}, {P}, {M}.",
    ),
    "tr": (
        "Haberde {T} var: {P} ülkesinde, {M} ayında, toplam {N} {U}.",
        "Haber: {T}, {N} {U}, {M} ayında {P} ülkesinde.",
        "Bildirilen olay {T}: {P}, {M}, {N} {U}.",
        "Raporda {T} var, ay {M}, ülke {P} ve {N} {U}.",
        "Duyurulan olay {T}: {N} {U}, {P}, {M}.",
    ),
    "vi": (
        "Có {T} tại {P} vào {M}, tổng cộng {N} {U}.",
        "Tin tức: {T}, {N} {U}, vào {M} tại {P}.",
        "Sự kiện là {T}: {P}, {M}, {N} {U}.",
        "Báo cáo nêu {T} trong {M}, {P} và {N} {U}.",
        "Được biết có {T}: {N} {U}, {P}, {M}.",
    ),
}

SUMMARY = {
    "de": (
        "{P} erlebte [im {M}] {T} | [, zusammen {N} {U}].",
        "Die wichtigste Nachricht ist {T} [in {P}] | [im {M}] [, zusammen {N} {U}].",
        "Es geht um {T} [in {P}] | [und um {N} {U}].",
        "Im {M} sah {P} {T} | [, alles in allem {N} {U}].",
        "Ganze {N} {U} brachte | {T} [in {P}] [im {M}].",
        "Kurz gesagt: {T} [in {P}] | [, {N} {U}].",
    ),
    "en": (
        "{P} had {T} [in {M}] | [with {N} {U}].",
        "The main news is {T} [in {P}] | [in {M}] [with {N} {U}].",
        "This is about {T} [in {P}] | [and about {N} {U}].",
        "In {M} {P} saw {T} | [, all in all {N} {U}].",
        "A total of {N} {U} came | with {T} [in {P}] [in {M}].",
        "In short: {T} [in {P}] | [, {N} {U}].",
    ),
    "es": (
        "{P} vivió {T} [en {M}] | [con {N} {U}].",
        "La noticia principal es {T} [en {P}] | [en {M}] [con {N} {U}].",
        "Se trata de {T} [en {P}] | [y de {N} {U}].",
        "En {M} {P} registró {T} | [, en total {N} {U}].",
        "Un total de {N} {U} llegó | con {T} [en {P}] [en {M}].",
        "En resumen: {T} [en {P}] | [, {N} {U}].",
    ),
    "ru": (
        "В стране {P} [за {M}] происходит {T} | [, всего {N} {U}].",
        "Главная новость — {T} [, место — {P}] | [, месяц — {M}] [, итог — {N} {U}].",
        "Главное здесь — {T} [в стране {P}] | [и {N} {U}].",
        "За {M} {P} сообщает: {T} | [, а всего {N} {U}].",
        "Всего {N} {U} — такой итог даёт | {T} [в стране {P}] [за {M}].",
        "Кратко: {T} [в стране {P}] | [, {N} {U}].",
    ),
    "tr": (
        "{P} ülkesinde [{M} ayında] {T} yaşandı | [, toplam {N} {U}].",
        "Bu metnin ana haberi {T} [, yer {P}] | [, ay {M}] [, sonuç olarak {N} {U}].",
        "Asıl konu {T} [, ülke {P}] | [ve {N} {U}].",
        "{M} ayında {P} için {T} haberi var | [, toplam {N} {U}].",
        "Tam {N} {U} getiren olay | {T} [, yer {P}] [, ay {M}].",
        "Kısaca [{P} ülkesinde] {T} | [, {N} {U}].",
    ),
    "vi": (
        "{P} có {T} [vào {M}] | [với {N} {U}].",
        "Tin chính là {T} [ở {P}] | [vào {M}] [với {N} {U}].",
        "Bài này nói về {T} [ở {P}] | [và {N} {U}].",
        "Trong {M} {P} ghi nhận {T} | [, tổng cộng {N} {U}].",
        "Con số {N} {U} đến | từ {T} [ở {P}] [vào {M}].",
        "Tóm lại: {T} [ở {P}] | [, {N} {U}].",
    ),
}

# What makes a summary less concise: empty words, or a detail of another fact (with that fact's own topic).
FILLERS = {
    "de": (", wie man so sagt", ", wie allgemein bekannt", ", das sei gesagt", ", jedenfalls"),
    "en": (", as they say", ", as is well known", ", it must be said", ", anyway"),
    "es": (", como se suele decir", ", como es sabido", ", dicho sea de paso", ", desde luego"),
    "ru": (", как говорится", ", как хорошо известно", ", надо сказать", ", впрочем"),
    "tr": (", söylendiği gibi", ", herkesin bildiği üzere", ", belirtmek gerekir", ", zaten"),
    "vi": (", như người ta nói", ", như ai cũng biết", ", phải nói thêm", ", dù sao"),
}
ADDITIONS = {
    "de": (", dazu {T} in {P}", ", ferner {T}"),
    "en": (", also {T} in {P}", ", besides {T}"),
    "es": (", además {T} en {P}", ", también {T}"),
    "ru": (", ещё {T} в стране {P}", ", также {T}"),
    "tr": (", ayrıca {P} için {T}", ", bir de {T}"),
    "vi": (", thêm {T} ở {P}", ", còn có {T}"),
}

_MARKS = re.compile(r"\{[TPMNU]\}|[\[\]|]|\w+|[^\w\s]")


class Chunk(NamedTuple):
    """A phrase of a frame. Parts are slots ("{T}"), words and punctuation marks."""

    parts: tuple[str, ...]
    lang: str
    optional: bool = False
    tail: bool = False


def parts_of(frame: str) -> tuple[str, ...]:
    """Slots, words and punctuation of a frame, without the marks of SUMMARY."""
    return tuple(part for part in _MARKS.findall(frame) if part not in "[]|")


@cache
def chunks_of(lang: str, index: int) -> tuple[Chunk, ...]:
    """SUMMARY[lang][index], cut at its marks."""
    chunks: list[Chunk] = []
    parts: list[str] = []
    tail = False

    def close(optional: bool) -> None:
        if parts:
            chunks.append(Chunk(tuple(parts), lang, optional, tail))
            parts.clear()

    for mark in _MARKS.findall(SUMMARY[lang][index]):
        if mark in ("[", "|", "]"):
            close(optional=mark == "]")
            tail = tail or mark == "|"
        else:
            parts.append(mark)
    close(optional=False)
    return tuple(chunks)


def text_of(parts: list[str]) -> str:
    """Words and marks in ordinary spacing."""
    return re.sub(r" ([,.:])", r"\1", " ".join(parts))
