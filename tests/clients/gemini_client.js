// Google's client of Node against our Gemini routes. Prints one line of JSON, as gemini_client.py.
const { GoogleGenAI } = require("@google/genai");

const baseUrl = process.env.PS_API_URL;
const of = (apiKey) => new GoogleGenAI({ apiKey, httpOptions: { baseUrl } });
const client = of(process.env.PS_API_KEY);
const model = "gemini-3-flash";
const calls = [];

function check(is, what) {
  if (!is) throw new Error(JSON.stringify(what));
}

function paid(response) {
  const headers = response.sdkHttpResponse.headers;
  calls.push({ charge: headers["x-polysystems-charge"], tokens: response.usageMetadata.totalTokenCount });
}

async function plain({ contents = "Hello!", ...config } = {}) {
  const response = await client.models.generateContent({ model, contents, config });
  paid(response);
  return response.candidates[0].content.parts;
}

async function streamed({ contents = "Hello!", ...config } = {}) {
  const parts = [];
  let last;
  for await (const chunk of await client.models.generateContentStream({ model, contents, config })) {
    parts.push(...(chunk.candidates[0].content?.parts ?? []));
    last = chunk;
  }
  paid(last);
  check(typeof last.usageMetadata.cost === "number", last.usageMetadata);
  return parts;
}

const text = (parts) => parts.map((part) => (part.thought ? "" : (part.text ?? ""))).join("");

async function raised(apiKey, more = {}) {
  try {
    for (let call = 0; call < Number(process.env.CALLS ?? 1); call += 1) {
      await of(apiKey).models.generateContent({ model, contents: "Hello!", ...more });
    }
  } catch (error) {
    return [error.constructor.name, error.status, JSON.parse(error.message).error.status];
  }
  return null;
}

async function main() {
  const whole = text(await plain());
  check(whole.endsWith("You wrote: Hello!"), whole);
  check(text(await streamed()) === whole, whole);
  const counted = await client.models.countTokens({ model, contents: "Hello!" });
  check(counted.totalTokens > 0, counted);
  const thinking = await streamed({ thinkingConfig: { includeThoughts: true } });
  check(thinking.some((part) => part.thought) && text(thinking) === whole, thinking);
  const parameters = { type: "OBJECT", properties: { city: { type: "STRING" } }, required: ["city"] };
  const tools = [{ functionDeclarations: [{ name: "weather", parameters }] }];
  for (const ask of [plain, streamed]) {
    const call = (await ask({ tools })).find((part) => part.functionCall);
    check(typeof call.functionCall.args.city === "string", call);
    const result = { functionResponse: { name: "weather", response: { result: "It rains." } } };
    const contents = [
      { role: "user", parts: [{ text: "Hello!" }] },
      { role: "model", parts: [call] },
      { role: "user", parts: [result] },
    ];
    check(text(await ask({ tools, contents })).includes("It rains."), call);
  }
  const embedded = await client.models.embedContent({ model: "gemini-embedding", contents: ["one", "two"] });
  check(embedded.embeddings.length === 2, embedded);
  let cut = null;
  try {
    for await (const _ of await client.models.generateContentStream({ model: "sandbox-cut", contents: "Hello!" }));
  } catch (error) {
    const { code, status } = JSON.parse(error.message.slice(error.message.indexOf("{"))).error;
    cut = [code, status, error.message.includes("broke off")];
  }
  const cached = { config: { cachedContent: "cachedContents/1" } };
  const search = { config: { tools: [{ googleSearch: {} }] } };
  console.log(
    JSON.stringify({
      calls,
      invalid: await raised("ps_live_nonsense"),
      poor: await raised(process.env.POOR_KEY),
      limited: await raised(process.env.LIMITED_KEY),
      field: await raised(process.env.PS_API_KEY, cached),
      search: await raised(process.env.PS_API_KEY, search),
      cut,
    }),
  );
}

main();
