"""The sample corpus that is part of the project: its form, its lengths, no doubles, the seven subjects."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict

import pytest

from minimind_core import PROMPTS, SAMPLE, SAMPLE_VALID, describe, split_segments

FILES = {"sample.jsonl": SAMPLE, "sample_valid.jsonl": SAMPLE_VALID}
SEGMENT = "<s>[^<>]+</s>"
# Characters that simplified Chinese writes otherwise.
TRADITIONAL = set(
    "這個們說國學對為時會過還開無與實義氣發電長門問間關頭樣後裡點華東車馬鳥魚黃麼嗎嚴書飛風龍龜齒麥雲陽隻雙難讓"
    "議論詞語話記設許訴診試該詳請讀調談誰識證買賣費資質貝負責貨財員園圓圖團壓壞塊聲處備夠奪奮婦媽孫寫寬將尋導層"
    "屬島嶺嶼幣師帶幫幹幾廣廳張強彈彎歸錄從復徑愛態慶應懷戰戲戶擇擊據擴攝敵數斷於曆術權條來楊極構槍樂標樹橋機"
    "歡歲歷殺毀氫決沒況測滅漢潔澤濃濕濟燈營獨獲現環瓊畫當療癒盡監盤礎禮種稱積穀穩窮競筆節範簡糧糾紀紅純紙級細"
    "終組結絕給統絲經綠維網緊線編緩練總績繩繪繼續罰羅聖聯職聽腦臉臟臺舉舊舖艦藝藥蘇蟲補裝見視覺觀觸訊計訓託軍輕"
    "載輸轉農遠運達違連選遺邊鄉醫釋鐵針銀銅鋼錢錯鎮鏡閉閱陸陰隊階際險隨雜離靈靜須預領題類願顯飯飲養館驗體魯鮮鹽齊"
)


def rows(name: str) -> list[str]:
    return [json.loads(line)["text"] for line in FILES[name].read_text(encoding="utf-8").splitlines()]


def segments(name: str) -> list[str]:
    return [segment for text in rows(name) for segment in split_segments(text)]


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_an_object_with_a_text_and_nothing_else(name):
    raw = FILES[name].read_bytes()
    assert raw.endswith(b"}\n") and b"\r" not in raw and not raw.startswith(b"\xef\xbb\xbf")
    for number, line in enumerate(raw.decode("utf-8").splitlines(), 1):
        assert list(json.loads(line)) == ["text"], f"{name}, line {number}"


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_six_to_nine_marked_segments_joined_by_one_space(name):
    for number, text in enumerate(rows(name), 1):
        assert re.fullmatch(f"{SEGMENT}( {SEGMENT}){{5,8}}", text, re.DOTALL), f"{name}, line {number}"
        for segment in re.findall("<s>(.*?)</s>", text, re.DOTALL):
            assert segment == segment.strip(), f"{name}, line {number}: {segment[:20]}"


@pytest.mark.parametrize("name", FILES)
def test_every_row_has_four_to_six_hundred_characters(name):
    wrong = {number: len(text) for number, text in enumerate(rows(name), 1) if not 400 <= len(text) <= 600}
    assert wrong == {}, f"lengths by line in {name}"


def test_there_is_enough_of_it():
    train, valid = rows("sample.jsonl"), rows("sample_valid.jsonl")
    assert len(train) >= 130 and sum(map(len, train)) >= 60_000
    assert len(valid) >= 15


def test_no_segment_occurs_twice_in_the_files_together():
    counts = Counter(segments("sample.jsonl") + segments("sample_valid.jsonl"))
    assert [segment for segment, count in counts.items() if count > 1] == []


def test_no_held_out_segment_is_nearly_one_of_the_training_segments():
    def grams(text: str) -> set[str]:
        return {text[i : i + 8] for i in range(len(text) - 7)}

    holders = defaultdict(set)
    for number, segment in enumerate(segments("sample.jsonl")):
        for gram in grams(segment):
            holders[gram].add(number)
    too_near = {}
    for segment in segments("sample_valid.jsonl"):
        own = grams(segment)
        shared = Counter(number for gram in own for number in holders.get(gram, ()))
        nearest = max(shared.values(), default=0) / max(len(own), 1)
        if nearest >= 0.6:
            too_near[segment] = round(nearest, 2)
    assert too_near == {}


@pytest.mark.parametrize("name", FILES)
def test_it_is_written_in_simplified_chinese(name):
    found = sorted(TRADITIONAL.intersection("".join(rows(name))))
    assert found == []


def test_the_list_of_traditional_characters_holds_no_simplified_ones():
    common = "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后毛"
    assert sorted(TRADITIONAL & set(common)) == []


@pytest.mark.parametrize("name", FILES)
def test_it_is_mostly_chinese_and_has_no_control_characters(name):
    text = "".join(rows(name))
    assert [c for c in sorted(set(text)) if unicodedata.category(c).startswith("C") and c != "\n"] == []
    assert "\ufffd" not in text
    assert sum("一" <= c <= "鿿" for c in text) > 0.6 * len(text)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_each_of_the_seven_prompts_stands_in_several_training_segments(prompt):
    found = [segment for segment in segments("sample.jsonl") if prompt in segment]
    assert len(found) >= 3
    # Different wordings: what follows or goes before the prompt is not one sentence copied.
    assert len({segment.split(prompt)[0][-6:] + segment.split(prompt)[1][:6] for segment in found}) >= 2


def test_the_package_describes_the_sample_without_a_complaint():
    report = describe(SAMPLE)
    assert report.rows == len(rows("sample.jsonl")) and report.editions == {"s": report.rows}
    assert report.duplicate_rows == report.duplicate_segments == 0
