"""The Chinese summary's five findings: written from the recorded runs, between two markers, by `./run_all.sh publish` and nobody else.

Numbers come from the same functions as the verdict's; only the words are here. Refuses to quote what was not measured: a finding of
which nothing is recorded says so, and a text without its markers is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib import figures, readme
from lib.verdict import headlines, needs
from lib.verdict.answers import FORMS
from lib.verdict.contest import TIE, UNTESTED, WINS, Settled
from lib.verdict.headlines import Headline
from lib.verdict.speaking import Speaking

BEGIN, END = "<!-- 五項發現：由 ./run_all.sh publish 產生 -->", "<!-- 五項發現結束 -->"
NOTHING = "這一項目前沒有任何紀錄。"
# By Contest.key; those of a first token end with the prompt's length.
WISHES = {
    "first": "提示 {n} 個 token 時最早看到第一個字",
    "stream": "單一使用者逐字輸出最快",
    "users-interactive": "「互動」服務水準內容納最多使用者",
    "users-server": "「伺服器」服務水準內容納最多使用者",
    "rate": "所有使用者合計每秒最多 token",
    "cost": "每百萬 token 最便宜",
    "cpu": "每個 token 用最少處理器時間",
    "memory": "記憶體用得最少",
    "start": "啟動最快",
}


def renewed(text: str) -> str:
    """`text` with what stands between the markers replaced. Raises ValueError when a marker is missing."""
    return readme.between(text, BEGIN, findings(Speaking()), END, name="README.zh-TW.md")


def findings(speaking: Speaking) -> str:
    """Five findings, numbered, each with how it is known and where."""
    told = {one.notebook: one for one in headlines.headlines(speaking, only=[notebook for notebook, *_ in FINDINGS])}
    return "\n".join([f"1. {_engines(speaking)}", *(f"{nth}. {_one(told.get(notebook), *words)}" for nth, (notebook, *words)
                                                    in enumerate(FINDINGS, start=2))])  # fmt: skip


def _engines(speaking: Speaking) -> str:
    """Which engine for which need, on the machine where engines ran last."""
    found, machines = needs.settled(speaking), needs.environments(speaking)
    if not found:
        return f"**該選哪個引擎？** {NOTHING}"
    name = list(machines)[-1]
    gpus, threads = machines[name]["gpus"], machines[name]["threads"]
    where = f"{threads} 個處理器、" + (f"{len(gpus)} 張 {gpus[0]['name']}" if gpus else "沒有 GPU")
    choices = "\n".join(f"   - {choice}" for choice in _choices(found[name]))
    return ("**該選哪個引擎？看你要什麼。** "
            f"這台機器有 {where}；括號內是勝過第二名的倍數與 95 % 區間，區間含 1 就不宣布贏家。怎麼知道的：同一組權重、同一個客戶端，"
            f"每一輪輪流詢問。看這裡：[90](notebooks/90_verdict.ipynb)\n{choices}")  # fmt: skip


def _choices(settled: Sequence[Settled]) -> list[str]:
    engines = [one for one in settled if one.contest.key not in FORMS]
    told = []
    for winner in dict.fromkeys(one.first for one in engines if one.word == WINS):
        wins = "、".join(f"{_wish(one)}（{_margin(one)}）" for one in engines if one.word == WINS and one.first == winner)
        told.append(f"選 **{winner}**：{wins}。")
    if tied := "、".join(_wish(one) for one in engines if one.word in (TIE, UNTESTED)):
        told.append(f"分不出勝負：{tied}。")
    return told or ["還沒有足以比較的紀錄。"]


def _wish(one: Settled) -> str:
    stem, _, tokens = one.contest.key.partition("-")
    return WISHES["first"].format(n=tokens) if stem == "first" else WISHES.get(one.contest.key, one.contest.need)


def _margin(one: Settled) -> str:
    if one.lo is None or one.hi is None:
        return f"{one.margin:.3g} 倍"
    return f"{one.margin:.2f} 倍，{one.lo:.2f}–{one.hi:.2f}"


def _one(headline: Headline | None, title: str, sentence: str, known: str) -> str:
    link = "" if headline is None else f"看這裡：[{headline.notebook[:2]}](notebooks/{headline.notebook}.ipynb)"
    return f"**{title}** {_said(headline, sentence)}怎麼知道的：{known}。{link}"


def _said(headline: Headline | None, sentence: str) -> str:
    fields: Mapping[str, Any] = (headline.fields if headline else None) or {}
    try:
        return figures.filled(sentence, **fields)
    except figures.NotMeasured:
        return NOTHING


# Notebook; title, sentence and how it is known.
FINDINGS: tuple[tuple[str, str, str, str], ...] = (
    ("01_fraud_pipeline", "一筆刷卡交易，多久有裁決？",
     "從位元組進來到決策寫入紀錄，中位數 {p50:.0f} µs（p99 {p99:.0f} µs）；經過 HTTP，單核心每秒回答 {rate:,.0f} 筆，"
     "p99 為 {target_p99:.2f} ms。換成最快的形式（{best_name}），單筆評分的速度是原本 pipeline 的 {times:,.0f} 倍。",
     "284,807 筆真實交易、Poisson 到達，延遲從「該到的那一刻」起算，不從客戶端有空送出時起算"),
    ("02_retail_pipeline", "一台機器能看幾支攝影機？",
     "依 Intel 公開的準則，{processors} 個處理器跟得上 {streams} 支每秒 15 幀的攝影機；若還要求事件在 200 ms 內送出（p99）、"
     "人數誤差不超過一成，則是 {strict} 支。速度是 ultralytics 內建迴圈的 {times:.1f} 倍（{times_lo:.1f}–{times_hi:.1f}），"
     "F1 為 {f1:.3f}。", "真實的行人影片、人工標註，各種做法逐輪輪流量測"),
    ("13_llm_quantization", "位元少就一定快嗎？",
     "{engine} 的 {precision}，權重縮為 1/{smaller:.1f}，逐字速度是 16 位元的 {ratio:.2f} 倍（95 % {lo:.2f}–{hi:.2f}，n = {n}），"
     "{top1:.1%} 的首選字不變；但 {slower_who} 每個 token 要花 16 位元 {slower_times:.2f} 倍的時間（{slower_lo:.2f}–{slower_hi:.2f}）。",
     "同一批 token，各自與同一引擎的 16 位元版本相比，並以 llama-perplexity 對照"),
    ("20_monitoring", "出事時會發現嗎？",
     "注入的 {detected_n} 次故障有 {detected_hits} 次觸發正確的警報（95 % {detected_lo:.0%}–{detected_hi:.0%}），"
     "{due_n} 個警報有 {due_hits} 個在預測的時間到；{controls} 次不該響的對照組，誤報 {false_alarms} 次。",
     "注入之前就寫下哪個警報、幾秒後該到；每次故障另有 Prometheus 以外的證人"),
)  # fmt: skip
