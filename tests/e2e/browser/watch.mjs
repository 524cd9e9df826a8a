// Looks at a page until it has no connection to the shop any more, and tells what was to be seen there, as JSON.
import chromium from "@sparticuz/chromium";
import { chromium as browsers } from "playwright-core";

const browser = await browsers.launch({ args: chromium.args, executablePath: await chromium.executablePath() });
const page = await browser.newPage();
const errors = [];
page.on("pageerror", error => errors.push(String(error)));
await page.goto(process.argv[2]);
const seen = { states: [], orders: 0, events: 0, answers: "", lags: {}, recommendations: {} };
for (;;) {
  const now = await page.evaluate(() => {
    const text = id => document.getElementById(id).textContent;
    const rows = id => [...document.querySelectorAll(`#${id} tr`)].map(row => [...row.cells].map(cell => cell.textContent));
    return {
      state: text("state"), orders: text("orders"), events: text("events"), answers: text("answers"),
      lags: rows("lags"), recommendations: rows("recommendations"), points: document.getElementById("rates").points.length,
    };
  });
  const number = text => Number(text.replaceAll(",", "")) || 0;
  if (!seen.states.includes(now.state)) seen.states.push(now.state);
  seen.orders = Math.max(seen.orders, number(now.orders));
  seen.events = Math.max(seen.events, number(now.events));
  seen.answers = now.answers || seen.answers;
  seen.points = now.points;
  for (const [stream, target, lag] of now.lags) {
    seen.lags[stream] = { target, most_s: Math.max(seen.lags[stream]?.most_s ?? 0, number(lag)), last_s: number(lag) };
  }
  for (const [product, also] of now.recommendations) seen.recommendations[product] = also;
  if (now.state === "no connection to the shop") break;
  await page.waitForTimeout(200);
}
await browser.close();
console.log(JSON.stringify({ ...seen, errors }));
