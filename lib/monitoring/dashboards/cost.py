"""Cost: what tokens would be billed at, what the machine costs, and what one request, one million tokens and the cache are worth."""

from __future__ import annotations

from typing import Any

from lib.monitoring.dashboards.board import board
from lib.monitoring.dashboards.panel import Ask, course, number

OF = '{model=~"$model"}'
PRICE = "max by (model, type) (token_price_usd)"


def _paid(of: str = OF, *, window: str = "$__rate_interval") -> str:
    """USD a second, each kind of token at its own price; cached input is not input once more."""
    return f"sum by (model) (rate(gen_ai_tokens_total{of}[{window}]) * on (model, type) group_left () {PRICE})"


def _tokens(of: str = OF, *, window: str = "$__rate_interval") -> str:
    return f"sum by (model) (rate(gen_ai_tokens_total{of}[{window}]))"


def cost() -> dict[str, Any]:
    cached = '{model=~"$model",type="input_cached"}'
    fresh = 'on (model) group_left () max by (model) (token_price_usd{type="input_uncached"})'
    top = [
        number("Tokens", "currencyUSD",
               "USD an hour at the price list, all kinds together, at the rate of the last five minutes.",
               Ask(f"sum by (model) (llm:cost_usd_per_hour{OF})", "an hour"), width=5, decimals=4, runbook=["TokenCostSpike"]),
        number("Machine", "currencyUSD",
               "USD an hour for the machine, busy or not.",
               Ask("max(machine:cost_usd_per_hour)", "an hour"), width=5, decimals=4),
        number("Spent", "currencyUSD",
               "USD for the tokens of the shown time, each kind at its own price.",
               Ask(f"sum by (model) (increase(gen_ai_tokens_total{OF}[$__range]) * on (model, type) group_left () {PRICE})", "{{model}}"),
               width=5, decimals=4, runbook=["TokenCostSpike"]),
        number("A million tokens", "currencyUSD",
               "USD a million tokens as mixed in the shown time: more output or fewer cache hits make it dearer.",
               Ask(f"1e6 * {_paid(window='$__range')} / {_tokens(window='$__range')}", "{{model}}"), width=5, decimals=3),
        number("Saved by the cache", "currencyUSD",
               "USD an hour that cached input would cost more at the price of fresh input.",
               Ask(f"3600 * ({_tokens(cached, window='$__range')} * {fresh} - {_paid(cached, window='$__range')})", "an hour"), width=4,
               decimals=4, runbook=["PrefixCacheLost"]),
    ]  # fmt: skip
    bill = [
        course("USD an hour by kind of token", "currencyUSD",
               "What tokens are billed at. A jump without more requests is longer prompts or answers.",
               Ask(f"llm:cost_usd_per_hour{OF}", "{{type}}"), width=12, stacked=True, runbook=["TokenCostSpike"]),
        course("Tokens by kind", "suffix: tok/s",
               "What goes into the bill. Cached input is a kind of its own and is not counted again as input.",
               Ask(f"sum by (type) (rate(gen_ai_tokens_total{OF}[$__rate_interval]))", "{{type}}"), width=12, stacked=True,
               runbook=["TokenCostSpike"]),
    ]  # fmt: skip
    unit = [
        course("USD a million tokens", "currencyUSD",
               "As mixed: the bill ÷ all tokens. It moves with the mix alone, never with the load.",
               Ask(f"1e6 * {_paid()} / {_tokens()}", "{{model}}"), empty="idle"),
        course("USD a thousand requests", "currencyUSD",
               "Billed tokens of a thousand good answers. Compare with the budget of the product that asks.",
               Ask(f'1e3 * sum({_paid()}) / sum(rate(gateway_requests_total{{service="llm",outcome="ok"}}[$__rate_interval]))', "LLM"),
               empty="idle", runbook=["TokenCostSpike"]),
        course("Machine's USD a million output tokens", "currencyUSD",
               "The machine's hour ÷ what it makes in it. Falls as the batch grows; above the price list the machine is too idle to pay "
               "for itself.",
               Ask('1e6 / 3600 * max(machine:cost_usd_per_hour) / sum(rate(gen_ai_tokens_total{type="output"}[$__rate_interval]) > 0)',
                   "machine"),
               Ask('1e6 * max by (model) (token_price_usd{type="output"})', "price list"), log=True, empty="idle"),
    ]  # fmt: skip
    cache = [
        course("Cached and uncached input", "suffix: tok/s",
               "Prompt tokens a second. Only the uncached ones are computed.",
               Ask('sum by (type) (rate(gen_ai_tokens_total{model=~"$model",type=~"input_.*"}[$__rate_interval]))', "{{type}}"), width=12,
               stacked=True),
        course("Tokens a request", "suffix: tokens",
               "Mean over five minutes by kind: the bill of a request before its prices.",
               Ask(f"llm:tokens_per_request:ratio5m{OF}", "{{type}}"), width=12, empty="no requests", runbook=["TokenCostSpike"]),
    ]  # fmt: skip
    return board("cost", "Cost", "What tokens are billed at, what the machine costs, and what one request is worth.",
                 {"": top, "The bill": bill, "For one": unit, "The cache": cache}, variables={"model": "gen_ai_tokens_total"})  # fmt: skip
