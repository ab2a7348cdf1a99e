import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.stream.Stream;

/** A JDK HttpClient with its defaults, which offers HTTP/2 with each request: follows a room and publishes to it. */
class Offers {
    public static void main(String[] arguments) throws Exception {
        String node = arguments[0], key = arguments[1], room = arguments[2];
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest follow = HttpRequest.newBuilder(URI.create(node + "/sse/rooms/" + room)).build();
        var stream = client.send(follow, BodyHandlers.ofLines());
        String type = stream.headers().firstValue("content-type").orElse("").split(";")[0];
        System.out.println(stream.statusCode() + " " + type);
        for (int number = 1; number <= 3; number++) {
            String body = "{\"channel\":\"room:" + room + "\",\"data\":" + number + "}";
            var publish = HttpRequest.newBuilder(URI.create(node + "/api/publish"))
                .header("X-API-Key", key)
                .POST(BodyPublishers.ofString(body))
                .build();
            var answer = client.send(publish, BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + (answer.body().contains("result") ? "result" : answer.body()));
        }
        Stream<String> lines = stream.body();
        lines.filter(line -> line.matches("data: [0-9]+")).limit(3).forEach(System.out::println);
        System.exit(0);
    }
}
