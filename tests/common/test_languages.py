"""Languages and scripts."""

from __future__ import annotations

import pytest

from metalm_cli.common.languages import guess_language, is_mostly_latin, language_code, split_words


@pytest.mark.parametrize(
    ("language", "code"),
    [("en", "en"), ("EN-us", "en"), ("English", "en"), ("zh_Hant", "zh"), ("japanese", "ja"), ("fr", "fr"), ("", "")],
)
def test_codes_of_languages(language, code) -> None:
    assert language_code(language) == code


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["the cat sat on the mat of a café " + "and slept " * 40], None),
        (["Die Katze schläft"], "und"),
        (["a cat"] * 9 + ["un chat est tombe\u0301"], "und"),
        (["123 !?"], None),
        (["Кошка спит", "ok"], "ru"),
        (["猫在屋顶上"], "zh"),
        (["東京タワーは高い"], "ja"),
        (["ｶﾀｶﾅ"], "ja"),
        (["고양이"], "ko"),
        (["แมว"], "th"),
        (["القطة"], "ar"),
        (["γάτα"], "el"),
    ],
)
def test_the_script_tells_the_language(texts, language) -> None:
    assert guess_language(texts) == language


@pytest.mark.parametrize(
    ("text", "is_latin"), [("Müller", True), ("3 + 4", True), ("Кошка ok", False), ("猫", False), ("alpha α", True)]
)
def test_mostly_latin_texts(text, is_latin) -> None:
    assert is_mostly_latin(text) == is_latin


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("L'été, Müller: 3 кошки", ["l", "été", "müller", "3", "кошки"]),
        ("Mu\u0308ller", ["müller"]),
        ("3猫，2 犬", ["3", "猫", "2", "犬"]),
        ("หวัด", ["ห", "วั", "ด"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("می\u200cشود", ["میشود"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("… — !", []),
    ],
)
def test_words_of_any_script(text, words) -> None:
    assert split_words(text) == words
