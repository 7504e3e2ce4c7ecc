// What the official OpenAI client of Node makes of refusals, and how often it asks. Prints one line of JSON.
const OpenAI = require("openai");

async function raised(apiKey, call) {
  let asks = 0;
  const counted = (...all) => {
    asks += 1;
    return fetch(...all);
  };
  const client = new OpenAI({ baseURL: process.env.PS_API_URL + "/v1", apiKey, fetch: counted });
  try {
    await call(client);
  } catch (error) {
    if (!error.message.includes(error.error.message)) throw error;
    return [error.status, error.type, error.code, asks];
  }
  return null;
}

const chat = (client) =>
  client.chat.completions.create({ model: "gpt-4o", messages: [{ role: "user", content: "Hello!" }] });

async function main() {
  const key = process.env.PS_API_KEY;
  console.log(
    JSON.stringify({
      invalid: await raised("ps_live_nonsense", chat),
      poor: await raised(key, chat),
      route: await raised(key, (client) => client.files.retrieve("file-1")),
    }),
  );
}

main();
