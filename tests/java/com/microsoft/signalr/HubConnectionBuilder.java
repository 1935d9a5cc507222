package com.microsoft.signalr;

public abstract class HubConnectionBuilder {
    public static HttpHubConnectionBuilder create(String url) { throw new UnsupportedOperationException(); }
    public abstract HubConnection build();
}
