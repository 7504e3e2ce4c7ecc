// The official Anthropic client of Node against our /v1/messages. Prints one line of JSON, as anthropic_client.py.
const Anthropic = require("@anthropic-ai/sdk");

const baseURL = process.env.PS_API_URL;
const client = new Anthropic({ baseURL, apiKey: process.env.PS_API_KEY, maxRetries: 0 });
const hello = [{ role: "user", content: "Hello!" }];
const asked = { model: "claude-sonnet-5", max_tokens: 2000, messages: hello };
const calls = [];

function check(is, what) {
  if (!is) throw new Error(JSON.stringify(what));
}

function paid(response, usage) {
  const beside = (usage.cache_read_input_tokens ?? 0) + (usage.cache_creation_input_tokens ?? 0);
  const tokens = usage.input_tokens + beside + usage.output_tokens;
  calls.push({ charge: response.headers.get("x-polysystems-charge"), tokens });
}

async function plain(more = {}) {
  const { data, response } = await client.messages.create({ ...asked, ...more }).withResponse();
  paid(response, data.usage);
  return data;
}

async function streamed(more = {}) {
  const stream = client.messages.stream({ ...asked, ...more });
  const { response } = await stream.withResponse();
  const last = await stream.finalMessage();
  paid(response, last.usage);
  return last;
}

async function raised(apiKey, more = {}, maxRetries = 2) {
  let asks = 0;
  const counted = (...all) => {
    asks += 1;
    return fetch(...all);
  };
  const refused = new Anthropic({ baseURL, apiKey, maxRetries, fetch: counted });
  try {
    for (let call = 0; call < Number(process.env.CALLS ?? 1); call += 1) {
      asks = 0;
      await refused.messages.create({ ...asked, ...more });
    }
  } catch (error) {
    check(error.error.message === error.error.error.message, error.error);
    return [error.constructor.name, error.status, error.error.error.type, asks];
  }
  return null;
}

async function main() {
  const message = await plain();
  check(message.content[0].text.endsWith("You wrote: Hello!"), message);
  const last = await streamed();
  check(last.content[0].text === message.content[0].text && last.stop_reason === "end_turn", last);
  for (const display of ["summarized", "omitted"]) {
    const { content } = await streamed({ thinking: { type: "enabled", budget_tokens: 1024, display } });
    check(content[0].type === "thinking" && content[0].signature, content);
    check((content[0].thinking !== "") === (display === "summarized"), content);
  }
  const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const tools = [{ name: "weather", description: "Tells the weather.", input_schema }];
  for (const ask of [plain, streamed]) {
    const turn = await ask({ tools });
    const call = turn.content.at(-1);
    check(turn.stop_reason === "tool_use" && typeof call.input.city === "string", turn);
    const result = { type: "tool_result", tool_use_id: call.id, content: "It rains." };
    const messages = [...hello, { role: "assistant", content: turn.content }, { role: "user", content: [result] }];
    const end = await ask({ tools, messages });
    check(end.content[0].text.endsWith("It rains."), end);
  }
  let cut = null;
  try {
    for await (const _ of client.messages.stream({ ...asked, model: "sandbox-cut" }));
  } catch (error) {
    cut = [error.type ?? error.error?.error?.type, error.message.includes("broke off")];
  }
  console.log(
    JSON.stringify({
      calls,
      invalid: await raised("ps_live_nonsense"),
      poor: await raised(process.env.POOR_KEY),
      limited: (await raised(process.env.LIMITED_KEY, {}, 0)).slice(0, 3),
      field: await raised(process.env.PS_API_KEY, { container: "container_1" }),
      cut,
    }),
  );
}

main();
